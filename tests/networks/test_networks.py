"""Every encoder with every decoder, on images of any size."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vaelab.errors import SettingError
from vaelab.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder

SHAPES = [(1, 8, 8), (1, 28, 20), (3, 32, 32), (1, 17, 23), (1, 28, 28)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [MLPEncoder, ConvEncoder])
def test_encoder(kind: type[Any], shape: tuple[int, ...]) -> None:
    encoder = kind(shape)
    features = encoder(torch.rand(5, *shape))
    assert features.shape == (5, encoder.num_features)
    features.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [MLPDecoder, ConvDecoder])
@pytest.mark.parametrize("leading", [(5,), (2, 5), (2, 3, 5)])
def test_decoder(kind: type[Any], shape: tuple[int, ...], leading: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    output_shape = (2 * shape[0], *shape[1:])
    decoder = kind(4, output_shape)
    z = torch.randn(*leading, 4)
    parameters = decoder(z)
    assert parameters.shape == (*leading, *output_shape)
    one_by_one = torch.stack([decoder(row[None])[0] for row in z.reshape(-1, 4)]).reshape(parameters.shape)
    torch.testing.assert_close(parameters, one_by_one, rtol=1e-4, atol=1e-5)
    parameters.square().sum().backward()
    assert all(p.grad is not None for p in decoder.parameters())


def test_an_mlp_encoder_takes_vectors_too() -> None:
    encoder = MLPEncoder((1, 1, 6), hidden=[5, 3])
    assert encoder(torch.rand(2, 7, 6)).shape == (2, 7, 3)
    image = MLPEncoder((1, 2, 3))
    x = torch.rand(4, 1, 2, 3)
    torch.testing.assert_close(image(x), image(x.flatten(1)))


@pytest.mark.parametrize("kind", [MLPEncoder, ConvEncoder])
def test_context_reaches_the_features(kind: type[Any]) -> None:
    encoder, x = kind((1, 8, 8), context_dim=3), torch.rand(2, 1, 8, 8)
    assert not torch.equal(encoder(x, torch.zeros(3)), encoder(x, torch.ones(3)))
    with pytest.raises(ValueError, match="context_dim=3"):
        encoder(x)
    with pytest.raises(ValueError, match="context_dim=0"):
        kind((1, 8, 8))(x, torch.zeros(3))


@pytest.mark.parametrize("kind", [MLPDecoder, ConvDecoder])
def test_context_reaches_the_image(kind: type[Any]) -> None:
    decoder, z = kind(4, (1, 8, 8), context_dim=3), torch.zeros(2, 5, 4)
    assert not torch.equal(decoder(z, torch.zeros(3)), decoder(z, torch.ones(3)))


@pytest.mark.parametrize(
    "build, names",
    [
        (lambda: MLPEncoder((1, 8, 8), hidden=[]), "encoder.hidden"),
        (lambda: MLPEncoder((1, 8, 8), hidden=[0]), "encoder.hidden"),
        (lambda: MLPEncoder((1, 8, 8), activation="relo"), "encoder.activation=relo.*did you mean 'relu'"),
        (lambda: MLPDecoder(2, (1, 8, 8), hidden=[2.5]), "decoder.hidden"),  # pyright: ignore[reportArgumentType]
        (lambda: ConvEncoder((1, 8, 8), channels=[-1]), "encoder.channels"),
        (lambda: ConvDecoder(2, (1, 8, 8), num_features=0), "decoder.num_features"),
    ],
)
def test_refused(build: Any, names: str) -> None:
    with pytest.raises(SettingError, match=names):
        build()
