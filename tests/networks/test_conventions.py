"""A decoder gives parameters, not pixels: nothing bounds them, since the likelihood knows which it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from vaelab.build import build

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "decoder"


@pytest.mark.parametrize("entry", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
@pytest.mark.parametrize("offset", [-50.0, 50.0])
def test_the_last_layer_of_a_decoder_is_linear(entry: str, offset: float) -> None:
    torch.manual_seed(0)
    node = yaml.safe_load((CONFIGS / f"{entry}.yaml").read_text())
    decoder = build(node, "decoder", latent_dim=3, output_shape=(2, 8, 8)).double()
    z = torch.randn(4, 3, dtype=torch.float64)
    *_, (name, bias) = decoder.named_parameters()
    assert name.endswith("bias")
    with torch.no_grad():
        before = decoder(z)
        bias.add_(offset)
        torch.testing.assert_close(decoder(z), before + offset)
