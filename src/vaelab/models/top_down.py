"""Many layers of latent images, from coarse to fine (Child 2021, "Very deep VAEs generalize autoregressive models and can outperform them on images")."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from vaelab.batch import Batch
from vaelab.errors import SettingError, integer
from vaelab.models.hierarchical import NormalDraw, unfolded
from vaelab.models.model import Inference, Model, Recipe, Simulated, check_prior, chosen_by, traits_of
from vaelab.models.terms import Layer, LayerTerms, Terms
from vaelab.models.traits import Traits
from vaelab.networks.layers import positive, widened
from vaelab.networks.resnet import Doubling
from vaelab.networks.top_down import Bottleneck, MergingBottleneck, Residual, Rise, Unfold, sizes
from vaelab.posteriors import LogVarianceNormal

#: what to take for z of a block whose prior given all layers above is p: (number of the block, block, p, h) -> z
Choose = Callable[[int, "TopDownBlock", Independent, Tensor], Tensor]


class TopDownBlock(nn.Module):
    """One stochastic layer: h says p(z|h) and, with features e of the image, q(z|h, e); then h takes z up.

    h <- h + r(h) + W z, and h <- h + f(h). All of ``[N, C, H, W]``; z is ``[N, z_channels, H, W]``, diagonal Gaussian under p and q. p starts as N(0, I).

    Args:
        channels: C.
        z_channels: channels of z.
        size: H and W.
        activation: name of the nonlinearity.
        gain: of what is added to h at first; one over the root of the number of blocks keeps h bounded.
    """

    def __init__(
        self, channels: int, z_channels: int, size: tuple[int, int], activation: str, gain: float
    ) -> None:
        super().__init__()
        self.z_shape = (z_channels, *size)
        self.prior = Bottleneck(channels, 2 * z_channels + channels, size, activation, gain=0.0)
        self.posterior = MergingBottleneck(channels, 2 * z_channels, size, activation)
        self.enter = nn.Conv2d(z_channels, channels, 1)
        self.enter.weight.data.mul_(gain)
        self.residual = Residual(channels, size, activation, gain)

    @property
    def dim(self) -> int:
        """D of the layer."""
        z_channels, height, width = self.z_shape
        return z_channels * height * width

    def p(self, hidden: Tensor) -> tuple[Independent, Tensor]:
        """p(z|h), batch shape ``[N]`` and event shape ``[D]``, and r(h)."""
        z_channels = self.z_shape[0]
        mean, log_variance, carried = self.prior(hidden).split(
            [z_channels, z_channels, hidden.shape[1]], dim=1
        )
        return _normal(mean, log_variance), carried

    def q(self, hidden: Tensor, evidence: Tensor) -> Independent:
        """q(z|h, e), batch shape ``[N]``, from ``e [B, C, H, W]``, the same for each of the N / B samples."""
        return _normal(*self.posterior(hidden, evidence).chunk(2, dim=1))

    def forward(self, hidden: Tensor, carried: Tensor, z: Tensor) -> Tensor:
        """The next h, from ``z [N, D]``."""
        return self.residual(hidden + carried + self.enter(z.unflatten(-1, self.z_shape)))

    def generative_parameters(self) -> Iterator[nn.Parameter]:
        return chain(*(part.parameters() for part in (self.prior, self.enter, self.residual)))


class TopDownPath(nn.Module):
    """From the code down to the parameters of p(x|z), through all other layers.

    Args:
        code_dim: D of the code.
        shapes: C, H and W of h at each scale, the 1x1 scale first.
        blocks: of each scale.
        output_shape: of the likelihood's parameters.
    """

    def __init__(
        self,
        code_dim: int,
        shapes: Sequence[tuple[int, tuple[int, int]]],
        blocks: Sequence[Sequence[TopDownBlock]],
        output_shape: Sequence[int],
    ) -> None:
        super().__init__()
        top, _ = shapes[0]
        self.enter = nn.Linear(code_dim, top)
        self.scales = nn.ModuleList(nn.ModuleList(some) for some in blocks)
        self.widening = nn.ModuleList()
        outputs = [*shapes[1:], (output_shape[0], (output_shape[1], output_shape[2]))]
        for (fan_in, size), (fan_out, next_size) in zip(shapes, outputs, strict=True):
            larger = (
                partial(Unfold, fan_in, fan_out) if size == (1, 1) else partial(Doubling, fan_in, fan_out)
            )
            self.widening.append(larger(size=next_size))

    def forward(self, code: Tensor, choose: Choose) -> Tensor:
        """Parameters ``[N, P * C, H, W]`` of p(x|z), from codes ``[N, D]`` and what ``choose`` says of all other layers, from the top down."""
        hidden, number = self.enter(code)[..., None, None], 0
        for blocks, widen in zip(self.scales, self.widening, strict=True):
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                p, carried = block.p(hidden)
                hidden = block(hidden, carried, choose(number, block, p, hidden))
                number += 1
            hidden = widen(hidden)
        return hidden


class TopDownVAE(Model):
    """p(x, z) = p(z_L) prod_l p(z_l|z_{>l}) p(x|z), q(z|x) = q(z_L|x) prod_l q(z_l|z_{>l}, x), each layer an image of latent variables, from 1x1 to half the image's size.

    Each layer depends on all above it, through h, which grows from the code to the parameters of p(x|z); q has its part of h in common with p (Child 2021). The code, z_L,
    has the prior and the posterior of their groups; the other layers are diagonal Gaussians.

    Args:
        rise: images -> features at each scale, the 1x1 scale last.
        posterior: of the code, from the features of the 1x1 scale.
        prior: of the code.
        path: the way down.
        likelihood: parameters -> p(x|z).
    """

    takes = frozenset({"posterior", "prior", "likelihood"})
    rise: Any
    posterior: Any
    prior: Any
    path: Any
    likelihood: Any

    def __init__(
        self, rise: Rise, posterior: nn.Module, prior: nn.Module, path: TopDownPath, likelihood: nn.Module
    ) -> None:
        super().__init__()
        self.rise = rise
        self.posterior = posterior
        self.prior = prior
        self.path = path
        self.likelihood = likelihood
        check_prior(prior, posterior)
        #: blocks from the top down, and the scale of each, counted from the top
        self.blocks = [(block, scale) for scale, some in enumerate(path.scales) for block in some]  # pyright: ignore[reportGeneralTypeIssues]
        lower = [block.dim for block, _ in self.blocks]
        self.noise_dims = [*lower[::-1], self.posterior.noise_dim]
        self.noise_dim = sum(self.noise_dims)
        self.prior_noise_dim = sum(lower) + self.prior.noise_dim
        self.choosing_dim = chosen_by(self.prior)
        self.dims = (*lower[::-1], path.enter.in_features)

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        channels: Sequence[int] = (32, 32, 64),
        layers: Sequence[int] = (2, 3, 2),
        z_channels: int = 4,
        blocks: int = 2,
        activation: str = "gelu",
    ) -> Self:
        """Args:
        channels: C of each scale: half the image's height and width, a quarter, ..., and of the last, which is 1x1.
        layers: stochastic layers of each scale, in the same order; the topmost of the last is the code, of ``latent_dim`` dimensions.
        z_channels: latent variables at each position of every other layer.
        blocks: residual blocks at each scale on the way up.
        activation: of all networks.
        """
        channels = positive("model.channels", channels)
        z_channels = integer("model.z_channels", z_channels, 1)
        integer("model.blocks", blocks, 0)
        numbers = _layers(layers, len(channels))
        likelihood = recipe.likelihood()
        rise = Rise(recipe.image_shape, channels, blocks, activation)
        posterior = recipe.posterior(channels[-1])
        prior = recipe.prior(posterior.noise_dim)
        shapes = list(zip(channels, sizes(recipe.image_shape, channels), strict=True))[::-1]
        gain = sum(numbers) ** -0.5
        scales = [
            [TopDownBlock(width, z_channels, size, activation, gain) for _ in range(number)]
            for (width, size), number in zip(shapes, (numbers[-1] - 1, *numbers[-2::-1]), strict=True)
        ]
        image_channels, *size = recipe.image_shape
        output_shape = (likelihood.params_per_pixel * image_channels, *size)
        path = TopDownPath(recipe.latent_dim, shapes, scales, output_shape)
        return cls(rise, posterior, prior, path, likelihood)

    def forward(self, batch: Batch, eps: Tensor) -> Terms:
        layers, p_x = self._infer(batch, eps)
        return Terms(log_px=p_x.log_prob(batch.x), layers=layers)

    def _infer(self, batch: Batch, eps: Tensor) -> tuple[tuple[Layer, ...], Distribution]:
        """The terms of each layer, the one next to the image first, and p(x|z) ``[K, B]``."""
        *lower, top = eps.split(self.noise_dims, dim=-1)
        lower.reverse()
        evidence = self.rise(batch.x)[::-1]
        code = self.posterior(evidence[0].flatten(1), top)
        layers: list[Layer] = [LayerTerms(code, self.prior(infer=self.infer_code()))]
        zs = [code.z]  # and not the layers: those hold what is made here, and a circle would hold its memory
        stopped = cache(partial(self._stopped, evidence, zs))

        def choose(number: int, block: TopDownBlock, p: Independent, hidden: Tensor) -> Tensor:
            q = unfolded(block.q(hidden, evidence[self.blocks[number][1]]), len(eps))
            draw = NormalDraw(q, lower[number], lambda: stopped()[number])
            layers.append(LayerTerms(draw, unfolded(p, len(eps))))
            zs.append(draw.z)
            return draw.z.flatten(0, 1)

        p_x = self._likelihood(self.path(code.z.flatten(0, 1), choose), code.z.shape[:-1])
        return tuple(reversed(layers)), p_x

    def _stopped(self, evidence: Sequence[Tensor], zs: Sequence[Tensor]) -> list[Independent]:
        """q of each layer but the code, from the samples ``zs`` of all layers, from the top down: parameters are constants, the samples are not."""
        found: list[Independent] = []

        def choose(number: int, block: TopDownBlock, p: Independent, hidden: Tensor) -> Tensor:
            z = zs[number + 1]
            found.append(unfolded(block.q(hidden, evidence[self.blocks[number][1]].detach()), len(z)))
            return z.flatten(0, 1)

        constants = {name: value.detach() for name, value in self.path.named_parameters()}
        torch.func.functional_call(self.path, constants, (zs[0].flatten(0, 1), choose))
        return found

    def _likelihood(self, parameters: Tensor, shape: torch.Size) -> Distribution:
        return self.likelihood(parameters.unflatten(0, shape))

    def infer_code(self) -> Inference:
        """q(z_L|x)."""
        return Inference(lambda x: self.rise(x)[-1].flatten(1), self.posterior)

    def encode(self, batch: Batch) -> Layer:
        return self._infer(batch, batch.x.new_zeros(1, len(batch.x), self.noise_dim))[0][-1]

    def reconstruct(self, batch: Batch, eps: Tensor) -> Distribution:
        return self._infer(batch, eps)[1]

    def decode(self, code: Tensor, y: Tensor | None = None) -> Distribution:
        parameters = self.path(code.flatten(0, -2), lambda number, block, p, hidden: p.mean)
        return self._likelihood(parameters, code.shape[:-1])

    def simulate(self, eps: Tensor, y: Tensor | None = None) -> Simulated:
        *lower, top = eps.split([*self.dims[:-1], self.prior.noise_dim], dim=-1)
        lower.reverse()
        zs = [self.prior.draw(top, infer=self.infer_code())]

        def choose(number: int, block: TopDownBlock, p: Independent, hidden: Tensor) -> Tensor:
            zs.append(p.mean + p.stddev * lower[number])
            return zs[-1]

        p_x = self.likelihood(self.path(zs[0], choose))
        return Simulated(torch.cat(zs[::-1], dim=-1), p_x)

    def log_joint(self, batch: Batch, z: Tensor) -> Tensor:
        *lower, code = z.split(self.dims, dim=-1)
        lower.reverse()
        total = self.prior(infer=self.infer_code()).log_prob(code)

        def choose(number: int, block: TopDownBlock, p: Independent, hidden: Tensor) -> Tensor:
            nonlocal total
            total = total + unfolded(p, len(z)).log_prob(lower[number])
            return lower[number].flatten(0, 1)

        p_x = self._likelihood(self.path(code.flatten(0, 1), choose), z.shape[:-1])
        return total + p_x.log_prob(batch.x)

    @torch.no_grad()
    def traits(self) -> Traits:
        q = self.posterior.distribution(next(self.parameters()).new_zeros(2, self.path.enter.out_features))
        p = self.prior(infer=self.infer_code())
        return traits_of(self, q, p, self.posterior.fast_density, layers=len(self.dims))

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        """Those of q: of the code, and of the path, through which q of each other layer sees the layers above."""
        path = self.path.parameters() if self.blocks else ()
        return chain(self.rise.parameters(), self.posterior.parameters(), path)

    def generative_parameters(self) -> Iterator[nn.Parameter]:
        own = [self.prior, self.likelihood, self.path.enter, self.path.widening]
        blocks = chain.from_iterable(block.generative_parameters() for block, _ in self.blocks)
        needed = (
            chain(self.rise.parameters(), self.posterior.parameters()) if self.prior.needs_inference else ()
        )
        return chain(*(part.parameters() for part in own), blocks, needed)


def _normal(mean: Tensor, log_variance: Tensor) -> Independent:
    """A diagonal Gaussian of the vectors that images ``[N, C, H, W]`` are made of."""
    parameters = (widened(part).flatten(1) for part in (mean, log_variance))
    return Independent(LogVarianceNormal(*parameters), 1, validate_args=False)


def _layers(layers: Sequence[int], scales: int) -> tuple[int, ...]:
    """The numbers of stochastic layers of each scale, refused unless they say one for each, and at least one for the last."""
    numbers = tuple(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else ()
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers)
    if not numbers or not whole or len(numbers) != scales or numbers[-1] < 1:
        rule = f"must be {scales} integers >= 0, one for each of model.channels, of which the last is >= 1"
        raise SettingError("model.layers", layers, rule)
    return numbers
