"""The allow-list: what a configuration may build, and how it is told what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from vaelab.build import build, resolve
from vaelab.errors import SettingError
from vaelab.networks import MLPEncoder


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "builtins.eval", "builtins.__import__", "subprocess.run", "functools.partial", "torch.load", "torch.hub.load", "pickle.loads",
        "vaelab.networks.torch.load", "vaelab.networks.mlp.torch", "vaelab.build.build", "vaelab.noise.Noise", "vaelab.networks.mlp.MLPEncoder",
        "vaelab.runs.write_yaml", "hydra.utils.instantiate", "", None, 3, ["os.system"], "vaelab.networks.__builtins__", ".system", "MLPEncoder",
    ],
)  # fmt: skip
def test_refused_targets(target: Any) -> None:
    with pytest.raises(SettingError, match=r"encoder\._target_=.*may build"):
        resolve(target, "encoder")


def test_a_typo_in_a_target_is_guessed() -> None:
    with pytest.raises(SettingError, match=r"did you mean 'vaelab\.networks\.MLPEncoder'"):
        resolve("vaelab.networks.MLPEncodr", "encoder")


def test_context_goes_to_those_who_take_it() -> None:
    node = {"_target_": "vaelab.networks.MLPEncoder", "hidden": [4]}
    encoder = build(node, "encoder", image_shape=(1, 2, 2), latent_dim=7)
    assert isinstance(encoder, MLPEncoder)
    assert encoder.num_features == 4


def test_an_argument_that_nobody_takes_is_refused_by_name() -> None:
    with pytest.raises(
        SettingError, match=r"encoder\.hiden=\[4\]: unknown; allowed: hidden.*did you mean 'hidden'"
    ):
        build({"_target_": "vaelab.networks.MLPEncoder", "hiden": [4]}, "encoder", image_shape=(1, 2, 2))


def test_what_the_caller_decides_cannot_be_set() -> None:
    with pytest.raises(SettingError, match=r"encoder\.image_shape"):
        build(
            {"_target_": "vaelab.networks.MLPEncoder", "image_shape": [9]}, "encoder", image_shape=(1, 2, 2)
        )


def test_missing_pieces_are_named() -> None:
    with pytest.raises(SettingError, match="lacks the setting image_shape"):
        build({"_target_": "vaelab.networks.MLPEncoder"}, "encoder")
    with pytest.raises(SettingError, match="no _target_"):
        build({"hidden": [4]}, "encoder")


def test_installed_packages_add_components_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    import vaelab.build

    def entry_points(group: str, name: str) -> list[EntryPoint]:
        mine = EntryPoint("my_package.Encoder", "vaelab.networks.mlp:MLPEncoder", "vaelab.components")
        return [mine] if (group, name) == ("vaelab.components", mine.name) else []

    monkeypatch.setattr(vaelab.build, "entry_points", entry_points)
    assert resolve("my_package.Encoder", "encoder") is MLPEncoder
    with pytest.raises(SettingError):
        resolve("my_package.Decoder", "decoder")
