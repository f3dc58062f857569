"""Every encoder with every decoder that a configuration can name, on images of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from vaelab.build import build
from vaelab.errors import SettingError
from vaelab.networks import ConvEncoder, MLPDecoder, MLPEncoder, ResNetDecoder, ResNetEncoder
from vaelab.networks.layers import activation_layer
from vaelab.networks.resnet import Doubling, ResidualBlock

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NODES: dict[tuple[str, str], dict[str, Any]] = {
    (group, path.stem): yaml.safe_load(path.read_text())
    for group in ("encoder", "decoder")
    for path in sorted((CONFIGS / group).glob("*.yaml"))
}
ENCODERS, DECODERS = ([entry for g, entry in NODES if g == group] for group in ("encoder", "decoder"))
VECTOR_ENCODERS = [entry for entry in ENCODERS if "hidden" in NODES["encoder", entry]]
SHAPES = [(1, 8, 8), (1, 28, 20), (3, 32, 32), (1, 17, 23)]
D = 4
WIDTHS_OF = ("hidden", "channels", "num_features")


def make(group: str, entry: str, shape: tuple[int, ...], latent_dim: int = D, **settings: Any) -> Any:
    """The network of a yaml file in float64, for images of ``shape`` and as many parameters a pixel."""
    torch.manual_seed(0)
    node = NODES[group, entry] | settings
    return build(node, group, image_shape=shape, latent_dim=latent_dim, output_shape=shape).double()


def quarter(group: str, entry: str) -> dict[str, Any]:
    """The widths of a yaml file, divided by four: a hundred pairs of whole networks would take half a minute."""
    widths = {key: NODES[group, entry][key] for key in WIDTHS_OF if key in NODES[group, entry]}
    return {
        key: [width // 4 for width in value] if isinstance(value, list) else value // 4
        for key, value in widths.items()
    }


def stirred(network: Any) -> Any:
    """The network with all its weights moved: some start as zero, and would hide what lies before them."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def uniform(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_pair_learns(encoder: str, decoder: str, shape: tuple[int, ...]) -> None:
    code = make("encoder", encoder, shape, **quarter("encoder", encoder))
    image = make("decoder", decoder, shape, **quarter("decoder", decoder))
    mean, x, eps = nn.Linear(code.num_features, D).double(), uniform(4, *shape), normal(4, D)
    parameters = dict(nn.ModuleList([code, mean, image]).named_parameters())
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    losses, gradients = [], ()
    for _ in range(4):  # three steps, and the error behind the last
        reconstruction = image(mean(code(x)) + eps)
        assert reconstruction.shape == x.shape
        loss = (reconstruction - x).square().mean()
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        with torch.no_grad():
            for parameter, gradient in zip(parameters.values(), gradients, strict=True):
                parameter -= 0.02 * gradient
    assert losses[0] > losses[1] > losses[2] > losses[3]
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        assert gradient.isfinite().all(), name
        assert gradient.any(), name
        assert not torch.equal(parameter, start[name]), name


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("entry", ENCODERS)
def test_features_of_an_image_are_its_own(entry: str, shape: tuple[int, ...]) -> None:
    encoder, x = stirred(make("encoder", entry, shape)), uniform(3, *shape).requires_grad_()
    features = encoder(x)
    assert features.shape == (3, encoder.num_features)
    for i in range(3):
        torch.testing.assert_close(features[i], encoder(x[i : i + 1])[0])
    (gradient,) = torch.autograd.grad(features[1].sum(), x)
    assert not gradient[[0, 2]].any()
    assert gradient[1].all(), "a pixel does not reach the features"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("entry", DECODERS)
def test_parameters_of_an_image_come_from_its_z(entry: str, shape: tuple[int, ...]) -> None:
    decoder, z = stirred(make("decoder", entry, shape)), normal(3, D).requires_grad_()
    parameters = decoder(z)
    assert parameters.shape == (3, *shape)
    assert (parameters[0] != parameters[1]).all(), "a pixel that z does not reach"
    (gradient,) = torch.autograd.grad(parameters[1].square().sum(), z)
    assert not gradient[[0, 2]].any()
    assert gradient[1].all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (6, 17, 23)])
@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (2, 3, 2), (2, 1, 3, 2), (0, 3)], ids=str)
@pytest.mark.parametrize("entry", DECODERS)
def test_z_has_any_leading_dimensions(entry: str, leading: tuple[int, ...], shape: tuple[int, ...]) -> None:
    decoder, z = stirred(make("decoder", entry, shape, **quarter("decoder", entry))), normal(*leading, D)
    parameters = decoder(z)
    assert parameters.shape == (*leading, *shape)
    torch.testing.assert_close(parameters.reshape(-1, *shape), decoder(z.reshape(-1, D)))
    transposed = decoder(z.movedim(0, -2)) if z.dim() > 1 else parameters  # not contiguous
    torch.testing.assert_close(transposed.movedim(-4, 0) if z.dim() > 1 else transposed, parameters)


@pytest.mark.parametrize("leading", [(), (7,), (1, 1), (2, 7), (2, 3, 7)], ids=str)
@pytest.mark.parametrize("entry", VECTOR_ENCODERS)
def test_an_mlp_encodes_vectors_too(entry: str, leading: tuple[int, ...]) -> None:
    encoder = make("encoder", entry, (1, 1, 6), hidden=[5, 3], context_dim=2)
    x, context = normal(*leading, 6), normal(*leading, 2)
    features = encoder(x, context)
    assert features.shape == (*leading, 3)
    rows = encoder(x.reshape(-1, 6), context.reshape(-1, 2))
    torch.testing.assert_close(features.reshape(-1, 3), rows)


@pytest.mark.parametrize("entry", VECTOR_ENCODERS)
def test_an_image_is_the_vector_of_its_pixels(entry: str) -> None:
    encoder, x = make("encoder", entry, (3, 2, 4)), uniform(5, 3, 2, 4)
    torch.testing.assert_close(encoder(x), encoder(x.reshape(5, 24)))


@pytest.mark.parametrize("group, entry", NODES)
def test_context(group: str, entry: str) -> None:
    network = stirred(make(group, entry, (1, 8, 8), context_dim=3))
    x, context = (uniform(2, 1, 8, 8) if group == "encoder" else normal(2, D)), normal(2, 3)
    result = network(x, context)
    moved = network(x, context + torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    torch.testing.assert_close(moved[0], result[0])
    assert (moved[1] != result[1]).any()
    torch.testing.assert_close(network(x, context[0])[0], result[0])  # one context for all
    if group == "decoder":
        torch.testing.assert_close(network(x.expand(4, 2, D), context), result.expand(4, *result.shape))
    with pytest.raises(ValueError, match=r"built for context_dim=3, context is missing"):
        network(x)
    with pytest.raises(ValueError, match=r"built for context_dim=0, context is of shape \[2, 3\]"):
        make(group, entry, (1, 8, 8))(x, context)


WIDTHS = ([], [0], [8, -1], [2.5], [True], "88", 8, None)
COUNTS = (0, -1, 2.5, True, "8", None, [8])
WRONG: dict[str, tuple[Any, ...]] = {
    "hidden": WIDTHS,
    "channels": WIDTHS,
    "num_features": COUNTS,
    "blocks": COUNTS,
    "activation": ("relo", "", 3, None, ["relu"]),
    "context_dim": COUNTS[1:],
    "output_bias": ("zero", None, 1),
}


@pytest.mark.parametrize("group, entry", NODES)
def test_wrong_settings_are_refused_by_name(group: str, entry: str) -> None:
    settings = [key for key in NODES[group, entry] if key != "_target_"]
    for setting in [*settings, "context_dim"]:
        for value in WRONG[setting]:
            with pytest.raises(SettingError, match=rf"^{group}\.{setting}="):
                make(group, entry, (1, 8, 8), **{setting: value})


@pytest.mark.parametrize("group, entry", NODES)
def test_a_misspelt_activation_is_recognised(group: str, entry: str) -> None:
    with pytest.raises(SettingError, match=r"must be one of relu, .*did you mean 'relu'"):
        make(group, entry, (1, 8, 8), activation="relo")


@pytest.mark.parametrize("group", ["encoder", "decoder"])
def test_a_residual_network_has_no_gates(group: str) -> None:
    with pytest.raises(SettingError, match=rf"^{group}\.activation=gated: must be one of relu"):
        make(group, "resnet", (1, 8, 8), activation="gated")


def gate(both: Tensor, dim: int) -> Tensor:
    h, g = both.tensor_split(2, dim)
    return h / (1 + (-g).exp())


def test_a_gated_mlp_is_that_of_the_papers() -> None:
    encoder, x = MLPEncoder((1, 1, 6), hidden=[5, 3], activation="gated").double(), normal(4, 6)
    first, second = (layer for layer in encoder.layers if isinstance(layer, nn.Linear))
    torch.testing.assert_close(encoder(x), gate(second(gate(first(x), 1)), 1))
    decoder, z = MLPDecoder(2, (1, 2, 2), hidden=[3], activation="gated").double(), normal(4, 2)
    (first,) = (layer for layer in decoder.layers if isinstance(layer, nn.Linear))
    torch.testing.assert_close(decoder(z).flatten(1), decoder.output(gate(first(z), 1)))


def test_a_gated_convolution_gates_channels() -> None:
    encoder = ConvEncoder((1, 5, 4), channels=[3], num_features=2, activation="gated").double()
    x, (convolution, linear) = uniform(4, 1, 5, 4), (encoder.convolutions[0], encoder.features[0])
    hidden = gate(convolution(x), 1)
    assert hidden.shape == (4, 3, 3, 2)
    torch.testing.assert_close(encoder(x), gate(linear(hidden.flatten(1)), 1))


def test_a_residual_block_starts_as_the_identity() -> None:
    block, hidden = ResidualBlock(8, "silu", "encoder.activation").double(), normal(2, 8, 5, 4)
    assert torch.equal(block(hidden), hidden)
    changed = stirred(block)(hidden)
    torch.testing.assert_close(changed - hidden, block.layers(hidden))
    assert (changed != hidden).all()


def test_a_doubling_starts_as_nearest_neighbours() -> None:
    torch.manual_seed(0)
    doubling, hidden = Doubling(2, 3, (7, 6)).double(), normal(5, 2, 4, 3)
    weight, bias = doubling.convolution.parameters()
    small = F.conv2d(hidden, weight[::4], bias[::4], padding=1)
    large = F.interpolate(small, scale_factor=2, mode="nearest")
    torch.testing.assert_close(doubling(hidden), large[..., :7, :6])
    assert len(bias.unique()) == 3


def test_blocks_and_channels_are_counted() -> None:
    for kind in (ResNetEncoder((1, 8, 8), [4, 8], blocks=3), ResNetDecoder(2, (1, 8, 8), [8, 4], blocks=3)):
        assert sum(isinstance(layer, ResidualBlock) for layer in kind.modules()) == 6


def test_ten_halvings_of_a_small_image_leave_one_pixel() -> None:
    for encoder, decoder in (("conv", "conv"), ("gated_conv", "gated_conv"), ("resnet", "resnet")):
        x = uniform(2, 1, 8, 8)
        code = make("encoder", encoder, (1, 8, 8), channels=[4] * 10)
        image = make("decoder", decoder, (1, 8, 8), channels=[4] * 10, latent_dim=code.num_features)
        assert image(code(x)).shape == x.shape


def test_only_linear_pieces_are_doubled_for_gates() -> None:
    with pytest.raises(RuntimeError, match="even"):
        activation_layer("gated", "encoder.activation")(torch.zeros(2, 3))


@pytest.mark.parametrize("activation", ["tanh", "gated"])
def test_the_logits_of_a_decoder_start_at_those_of_the_pixels_means(activation: str) -> None:
    decoder = MLPDecoder(2, (1, 2, 3), [4], activation, output_bias="data")
    assert decoder.wants_pixel_means
    decoder.initialise(torch.tensor([[[0.0, 0.2, 0.5], [0.8, 1.0, 0.001]]]))
    with torch.no_grad():
        decoder.output.weight.zero_()
        p = torch.sigmoid(decoder(torch.randn(5, 2)))
    torch.testing.assert_close(p[3], torch.tensor([[[0.001, 0.2, 0.5], [0.8, 0.999, 0.001]]]))
    assert not MLPDecoder(2, (1, 2, 3), [4]).wants_pixel_means


def test_tanh_in_place_has_the_gradient_of_tanh() -> None:
    x = torch.randn(5, 3, dtype=torch.float64)
    ours = MLPEncoder((1, 1, 3), [4, 2], "tanh").double()
    plain = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Tanh()).double()
    plain.load_state_dict({key.removeprefix("layers."): value for key, value in ours.state_dict().items()})
    for layer in (ours, plain):
        layer(x).square().sum().backward()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)
