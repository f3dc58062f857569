"""Models of images and their classes, of which few are known (Kingma et al. 2014, "Semi-supervised learning with deep generative models")."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelab.batch import Batch
from vaelab.errors import SettingError, integer
from vaelab.likelihoods import GaussianLikelihood
from vaelab.models.model import Model, Recipe, Simulated, chosen_by, one_hot, traits_of
from vaelab.models.terms import Layer, LayerTerms, Terms
from vaelab.models.traits import Traits
from vaelab.networks import ConvEncoder, MLPDecoder, MLPEncoder
from vaelab.networks.layers import positive, widened
from vaelab.posteriors import NormalPosterior
from vaelab.priors import StandardNormalPrior

NEEDS_LABELS = "needs labels, and these data have none (or not for every image)"
NEEDS_INFERENCE = "asks for q(z|x), and here it is q(z|x, y); use another prior"


@dataclass(frozen=True)
class Pairs:
    """Images with every class that they may have: the one that is given, or each of them. P pairs, image by image.

    Attributes:
        given: classes ``[B]``; -1 = not given.
        num_classes: C.
        first_given: from this image on the class is given, and before it is not; None = in any order, so that one has to look.
    """

    given: Tensor
    num_classes: int
    first_given: int | None = None

    @cached_property
    def _possible(self) -> Tensor:
        """``[B, C]``, bool."""
        return one_hot(self.given, self.num_classes) | (self.given < 0).unsqueeze(-1)

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        if self.first_given is None:
            image, label = self._possible.nonzero(as_tuple=True)
            return image, label
        images = torch.arange(len(self.given), device=self.given.device)
        without, rest = images[: self.first_given], images[self.first_given :]
        classes = torch.arange(self.num_classes, device=self.given.device)
        every = torch.cartesian_prod(without, classes)
        return torch.cat([every[:, 0], rest]), torch.cat([every[:, 1], self.given[self.first_given :]])

    def repeated(self, times: int) -> Pairs:
        """Of the images so many times over."""
        alike = times == 1 or self.first_given in (0, len(self.given))
        first = times * self.first_given if alike and self.first_given is not None else None
        return Pairs(self.given.repeat(times), self.num_classes, first)

    @property
    def image(self) -> Tensor:
        """Position of the image ``[P]``."""
        return self._places[0]

    @property
    def label(self) -> Tensor:
        """The class ``[P]``."""
        return self._places[1]

    def table(self, values: Tensor, missing: float = 0.0) -> Tensor:
        """``values [..., P]`` by image and class ``[..., B, C]``; ``missing`` where there is no such pair."""
        images, classes = self._possible.shape
        out = values.new_full((*values.shape[:-1], images * classes), missing)
        return out.index_copy(-1, self.image * classes + self.label, values).unflatten(-1, (images, classes))

    def probabilities(self, log_q: Tensor) -> Tensor:
        """Of each class ``[B, C]``: q(y|x) from its logarithm ``[B, C]``; 1 for the class that is given."""
        return torch.where((self.given < 0).unsqueeze(-1), log_q.exp(), self._possible.to(log_q))

    def of_likeliest(self, values: Tensor, log_q: Tensor) -> Tensor:
        """Of ``values [K, P, D]`` those of each image's likeliest class ``[K, B, D]``, which is the given one where one is given."""
        likeliest = torch.where(self.given < 0, log_q.argmax(-1), self.given)
        position = self.table(torch.arange(len(self.image), device=values.device))
        return values[:, position.gather(1, likeliest.unsqueeze(-1)).squeeze(-1)]


@dataclass(frozen=True)
class LabelTerms(Layer):
    """The class y as a stochastic layer that is summed over and not sampled: KL(q(y|x) || p(y)), p(y) = 1/C; -log p(y) where y is given.

    Attributes:
        pairs: of the images.
        log_q_y: log q(y|x) ``[B, C]``.
        num_samples: K of the other layer.
    """

    pairs: Pairs
    log_q_y: Tensor
    num_samples: int

    @property
    def z(self) -> Tensor:
        """``[K, B, 0]``: nothing is drawn."""
        return self.log_q_y.new_zeros(self.num_samples, len(self.log_q_y), 0)

    @property
    def log_p(self) -> Tensor:
        """log p(y) ``[K, B]``."""
        return self.log_q.new_full(self.log_q.shape, -math.log(self.pairs.num_classes))

    @cached_property
    def log_q(self) -> Tensor:
        """E log q(y|x) ``[K, B]``: minus the entropy of q(y|x); 0 where y is given."""
        expected = (self.log_q_y.exp() * self.log_q_y).sum(-1)
        return torch.where(self.pairs.given < 0, expected, 0.0).expand(self.num_samples, -1)

    @property
    def log_q_stopped(self) -> Tensor:
        return self.log_q.detach()

    @property
    def kl(self) -> Tensor:
        """``[B, 1]``."""
        return (self.log_q - self.log_p)[0].unsqueeze(-1)

    @property
    def mean(self) -> Tensor:
        """``[B, 0]``."""
        return self.z[0]

    @property
    def stddev(self) -> None:
        return None


@dataclass(frozen=True)
class SummedLayer(Layer):
    """The terms of z, averaged over the classes by their probabilities.

    Attributes:
        layer: the terms of each pair.
        pairs: of the images.
        log_q_y: log q(y|x) ``[B, C]``.
    """

    layer: LayerTerms
    pairs: Pairs
    log_q_y: Tensor

    @cached_property
    def _probabilities(self) -> Tensor:
        return self.pairs.probabilities(self.log_q_y)

    def average(self, values: Tensor) -> Tensor:
        """``[..., P]`` -> ``[..., B]``."""
        return (self._probabilities * self.pairs.table(values)).sum(-1)

    @property
    def z(self) -> Tensor:
        """The samples ``[K, B, D]`` of q(z|x, y) at each image's likeliest class."""
        return self.pairs.of_likeliest(self.layer.z, self.log_q_y)

    @cached_property
    def log_p(self) -> Tensor:
        return self.average(self.layer.log_p)

    @cached_property
    def log_q(self) -> Tensor:
        return self.average(self.layer.log_q)

    @property
    def log_q_stopped(self) -> Tensor:
        return self.average(self.layer.log_q_stopped)

    @cached_property
    def kl(self) -> Tensor | None:
        kl = self.layer.kl
        return None if kl is None else self.average(kl.mT).mT

    @property
    def mean(self) -> Tensor | None:
        """E z ``[B, D]`` over classes, too."""
        mean = self.layer.mean
        return None if mean is None else self.average(mean.mT).mT

    @property
    def stddev(self) -> Tensor | None:
        """``[B, D]`` over classes, too: from the variance in each, and that of their means."""
        mean, of_pairs, stddev = self.mean, self.layer.mean, self.layer.stddev
        if mean is None or of_pairs is None or stddev is None:
            return None
        variance = stddev.square() + (of_pairs - mean.index_select(0, self.pairs.image)).square()
        return self.average(variance.mT).mT.sqrt()


@dataclass(frozen=True)
class RowsOfSamples(Layer):
    """A layer of K * B rows as one of K samples of B images, on which it depends through samples of another layer.

    Attributes:
        rows: its terms, one sample a row.
        num_samples: K.
    """

    rows: Layer
    num_samples: int

    def _unfold(self, values: Tensor) -> Tensor:
        return values.unflatten(0, (self.num_samples, -1))

    @property
    def z(self) -> Tensor:
        return self._unfold(self.rows.z[0])

    @property
    def log_p(self) -> Tensor:
        return self._unfold(self.rows.log_p[0])

    @property
    def log_q(self) -> Tensor:
        return self._unfold(self.rows.log_q[0])

    @property
    def log_q_stopped(self) -> Tensor:
        return self._unfold(self.rows.log_q_stopped[0])

    @property
    def kl(self) -> Tensor | None:
        return None if self.rows.kl is None else self._unfold(self.rows.kl)

    @property
    def mean(self) -> None:
        return None

    @property
    def stddev(self) -> None:
        return None


@dataclass(frozen=True)
class CodeTerms(Layer):
    """The terms of a code whose prior is another model.

    Attributes:
        sample: of q(z|x).
        log_p_given: log p(z) ``[K, B]``, the latent variables of its model given.
    """

    sample: Any
    log_p_given: Tensor

    @property
    def z(self) -> Tensor:
        return self.sample.z

    @property
    def log_p(self) -> Tensor:
        return self.log_p_given

    @property
    def log_q(self) -> Tensor:
        return self.sample.log_q

    @property
    def log_q_stopped(self) -> Tensor:
        return self.sample.log_q_stopped

    @property
    def kl(self) -> None:
        return None

    @property
    def mean(self) -> Tensor | None:
        return self.sample.mean

    @property
    def stddev(self) -> Tensor | None:
        return self.sample.stddev


class Classifier(nn.Module):
    """q(y|x): images -> log q(y|x) ``[B, C]``.

    Args:
        encoder: images -> features ``[B, F]``.
        num_classes: C.
    """

    def __init__(self, encoder: Any, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.logits = nn.Linear(encoder.num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return widened(self.logits(self.encoder(x))).log_softmax(-1)


class LabelledFeatures(nn.Module):
    """Features of (image, class) from those of the image: ReLU(W h + V_y). W h is made once an image, whatever the number of classes.

    Args:
        num_features: F of both.
        num_classes: C.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.of_image = nn.Linear(num_features, num_features)
        self.of_label = nn.Linear(num_classes, num_features, bias=False)

    def forward(self, features: Tensor, pairs: Pairs) -> Tensor:
        """``[B, F]`` -> ``[P, F]``."""
        labels = self.of_label.weight.mT.index_select(0, pairs.label)
        return F.relu(self.of_image(features).index_select(0, pairs.image) + labels)


class SemiSupervisedVAE(Model):
    """p(x, y, z) = p(y) p(z) p(x|z, y) with q(y|x) q(z|x, y), p(y) uniform: the model M2 of Kingma et al. 2014.

    In training, the class of an image is given where its label is known (y >= 0), and summed over where it is not (y = -1): for the one the bound is of log p(x, y),
    for the other of log p(x). In evaluation all classes are summed over, so that all numbers are of p(x); labels are then only what q(y|x) is compared with.

    Args:
        classifier: images -> log q(y|x).
        encoder: images ``[B, C, H, W]`` -> features ``[B, F]``, for all classes once.
        join: features, classes -> features of q(z|x, y).
        posterior: features, noise -> samples of q(z|x, y) with their density.
        prior: p(z).
        decoder: ``z [..., D]``, class one hot -> parameters.
        likelihood: parameters -> p(x|z, y).
        num_classes: C.
    """

    takes = frozenset({"encoder", "posterior", "prior", "decoder", "likelihood"})
    infers_labels = True
    classifier: Any
    encoder: Any
    join: Any
    posterior: Any
    prior: Any
    decoder: Any
    likelihood: Any

    def __init__(
        self,
        classifier: nn.Module,
        encoder: nn.Module,
        join: nn.Module,
        posterior: nn.Module,
        prior: nn.Module,
        decoder: nn.Module,
        likelihood: nn.Module,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.encoder = encoder
        self.join = join
        self.posterior = posterior
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.num_classes = num_classes
        if self.prior.needs_inference:
            raise SettingError("prior", type(prior).__name__, NEEDS_INFERENCE)
        self.noise_dim = self.posterior.noise_dim
        self.prior_noise_dim = self.prior.noise_dim + 1  # the last one draws the class where none is given
        self.choosing_dim = chosen_by(self.prior) + 1

    @classmethod
    def from_recipe(cls, recipe: Recipe, classifier_channels: Sequence[int] | None = None) -> Self:
        """Args:
        classifier_channels: of the convolutions of q(y|x); None = it has an encoder such as q(z|x, y) has.
        """
        classes = recipe.num_classes
        if classes == 0:
            raise SettingError("model", "semi_supervised", NEEDS_LABELS)
        likelihood = recipe.likelihood()
        if classifier_channels is None:
            of_labels = recipe.encoder()
        else:
            channels = positive("model.classifier_channels", classifier_channels)
            of_labels = ConvEncoder(recipe.image_shape, channels)
        classifier = Classifier(of_labels, classes)
        encoder = recipe.encoder()
        posterior = recipe.posterior(encoder.num_features)
        return cls(
            classifier, encoder, LabelledFeatures(encoder.num_features, classes), posterior,
            recipe.prior(posterior.noise_dim), recipe.decoder(context_dim=classes), likelihood, classes,
        )  # fmt: skip

    def forward(self, batch: Batch, eps: Tensor) -> Terms:
        return self.terms(batch.x, self.pairs(batch), eps)

    def pairs(self, batch: Batch) -> Pairs:
        """The images with the classes that they may have: those that are known are given in training, none in evaluation."""
        if self.training:
            return Pairs(batch.y, self.num_classes, batch.first_labelled)
        return Pairs(torch.full_like(batch.y, -1), self.num_classes, len(batch.y))

    def terms(self, x: Tensor, pairs: Pairs, eps: Tensor) -> Terms:
        """The terms of the bound on log p(x, y) where a class is given, on log p(x) where it is not; from noise ``eps [K, B, noise_dim]``, the same for all classes."""
        log_q_y, given = self.classifier(x), pairs.given
        sample = self._sample(x, pairs, eps)
        layer = LayerTerms(sample, self.prior())
        log_px = self._p_x(sample.z, pairs.label).log_prob(x.index_select(0, pairs.image))
        z = SummedLayer(layer, pairs, log_q_y)

        def log_w() -> Tensor:
            """log sum_y p(y) p(x|z_y, y) p(z_y) / q(z_y|x, y) ``[K, B]``."""
            of_pairs = pairs.table(log_px + layer.log_p - layer.log_q, missing=-math.inf)
            return of_pairs.logsumexp(-1) - math.log(self.num_classes)

        known = log_q_y.gather(1, given.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return Terms(
            log_px=z.average(log_px),
            layers=(LabelTerms(pairs, log_q_y, len(eps)), z),
            log_w_summed=log_w,
            log_q_label=torch.where(given < 0, 0.0, known).expand(len(eps), -1),
        )

    def classify(self, x: Tensor) -> Tensor:
        """log q(y|x) ``[B, C]``."""
        return self.classifier(x)

    def encode(self, batch: Batch) -> SummedLayer:
        """Of q(z|x, y) at the likeliest class y."""
        log_q_y = self.classifier(batch.x)
        pairs = self._likeliest(batch, log_q_y)
        eps = batch.x.new_zeros(1, len(batch.x), self.noise_dim)
        return SummedLayer(LayerTerms(self._sample(batch.x, pairs, eps), self.prior()), pairs, log_q_y)

    def reconstruct(self, batch: Batch, eps: Tensor) -> Distribution:
        """p(x|z, y) at samples z of q(z|x, y), y the likeliest class."""
        pairs = self._likeliest(batch, self.classifier(batch.x))
        return self._p_x(self._sample(batch.x, pairs, eps).z, pairs.label)

    def decode(self, code: Tensor, y: Tensor | None = None) -> Distribution:
        if y is None:
            raise ValueError(f"p(x|z, y) is of a class: labels from 0 to {self.num_classes - 1} are needed")
        return self._p_x(code, y)

    def simulate(self, eps: Tensor, y: Tensor | None = None) -> Simulated:
        """Of classes ``y [n]``, or of p(y) where none are given."""
        z = self.prior.draw(eps[..., :-1])
        return Simulated(z, self._p_x(z, self._drawn_labels(eps) if y is None else y))

    def log_joint(self, batch: Batch, z: Tensor) -> Tensor:
        pairs = self.pairs(batch)
        x = batch.x.index_select(0, pairs.image)
        log_px = self._p_x(z.index_select(1, pairs.image), pairs.label).log_prob(x)
        summed = pairs.table(log_px, missing=-math.inf).logsumexp(-1) - math.log(self.num_classes)
        return self.prior().log_prob(z) + summed

    def _sample(self, x: Tensor, pairs: Pairs, eps: Tensor) -> Any:
        features = self.join(self.encoder(x), pairs)
        return self.posterior(features, eps.index_select(1, pairs.image))

    def _p_x(self, z: Tensor, y: Tensor) -> Distribution:
        return self.likelihood(self.decoder(z, context=one_hot(y, self.num_classes).to(z)))

    def _likeliest(self, batch: Batch, log_q_y: Tensor) -> Pairs:
        """The images with their likeliest classes, which are the given ones where one is given."""
        given = self.pairs(batch).given
        return Pairs(torch.where(given < 0, log_q_y.argmax(-1), given), self.num_classes, first_given=0)

    def _drawn_labels(self, eps: Tensor) -> Tensor:
        """Classes of p(y) from the last of the standard normal numbers ``eps [n, prior_noise_dim]``."""
        uniform = torch.special.ndtr(eps[..., -1])
        return (uniform * self.num_classes).long().clamp(max=self.num_classes - 1)

    @torch.no_grad()
    def traits(self) -> Traits:
        weight = next(self.parameters())
        q = self.posterior.distribution(weight.new_zeros(2, self.encoder.num_features))
        found = traits_of(self, q, self.prior(), self.posterior.fast_density, layers=2)
        return replace(found, summed=True, classifies=True)

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        parts = (self.classifier, self.encoder, self.join, self.posterior)
        return chain.from_iterable(part.parameters() for part in parts)

    def generative_parameters(self) -> Iterator[nn.Parameter]:
        return chain(self.prior.parameters(), self.decoder.parameters(), self.likelihood.parameters())


class StackedSemiSupervisedVAE(Model):
    """p(x, z1, y, z2) = p(y) p(z2) p(z1|z2, y) p(x|z1): M1 + M2 of Kingma et al. 2014, a model M2 of the codes z1 of a VAE, M1.

    q is q(z1|x) q(y|z1) q(z2|z1, y). The parts of M1 are those of a run of ``model=vae``, and are called as there; its prior of z1 is what M2 takes the place of. Trained in
    turn, as the paper does, M1 keeps its weights (``init_from=DIR train_only=second``), and M2 sees a new sample z1 of each image in every step.

    Args:
        encoder, posterior, decoder, likelihood: of M1.
        second: M2, whose images ``[B, 1, 1, D1]`` are codes.
        code_dim: D1.
    """

    takes = frozenset({"encoder", "posterior", "decoder", "likelihood"})
    infers_labels = True
    begins_with = frozenset({"VAE"})
    encoder: Any
    posterior: Any
    decoder: Any
    likelihood: Any
    second: SemiSupervisedVAE

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module,
        decoder: nn.Module,
        likelihood: nn.Module,
        second: SemiSupervisedVAE,
        code_dim: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.posterior = posterior
        self.decoder = decoder
        self.likelihood = likelihood
        self.second = second
        self.num_classes = second.num_classes
        self.code_dim = code_dim
        self.noise_dim = self.posterior.noise_dim + second.noise_dim
        self.prior_noise_dim = self.code_dim + second.prior_noise_dim
        self.choosing_dim = second.choosing_dim

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        second_latent_dim: int = 50,
        hidden: Sequence[int] = (500,),
        activation: str = "relu",
    ) -> Self:
        """Args:
        second_latent_dim: of z2.
        hidden: width of each layer of the networks of M2.
        activation: of these.
        """
        integer("model.second_latent_dim", second_latent_dim, 1)
        classes, codes = recipe.num_classes, (1, 1, recipe.latent_dim)
        if classes == 0:
            raise SettingError("model", "m1_m2", NEEDS_LABELS)
        likelihood, encoder = recipe.likelihood(), recipe.encoder()
        posterior, decoder = recipe.posterior(encoder.num_features), recipe.decoder()
        widths = positive("model.hidden", hidden)
        own = MLPEncoder(codes, widths, activation)
        # no floor under sigma: codes are no grey levels; on average over images they are as wide as p(z1) = N(0, I)
        of_codes = GaussianLikelihood(codes, (-1.0, 1.0), 256, "decoder", sigma=1.0, sigma_floor=0.0)
        second = SemiSupervisedVAE(
            Classifier(MLPEncoder(codes, widths, activation), classes),
            own,
            LabelledFeatures(own.num_features, classes),
            NormalPosterior(own.num_features, second_latent_dim),
            StandardNormalPrior(second_latent_dim),
            MLPDecoder(second_latent_dim, (2, 1, recipe.latent_dim), widths[::-1], activation, classes),
            of_codes,
            classes,
        )
        return cls(encoder, posterior, decoder, likelihood, second, recipe.latent_dim)

    def forward(self, batch: Batch, eps: Tensor) -> Terms:
        first, second = eps.split([self.posterior.noise_dim, self.second.noise_dim], dim=-1)
        sample = self.posterior(self.encoder(batch.x), first)
        k = len(eps)
        # every sample of z1 is an image of its own to M2
        of_codes = self.second.terms(
            _as_images(sample.z.flatten(0, 1)),
            self.second.pairs(batch).repeated(k),
            second.flatten(0, 1).unsqueeze(0),
        )
        log_px = self.likelihood(self.decoder(sample.z)).log_prob(batch.x)
        layers = (RowsOfSamples(layer, k) for layer in of_codes.layers)
        label = of_codes.log_q_label
        assert label is not None
        return Terms(
            log_px=log_px,
            layers=(CodeTerms(sample, of_codes.log_px.unflatten(1, (k, -1))[0]), *layers),
            log_w_summed=lambda: log_px - sample.log_q + of_codes.log_w.unflatten(1, (k, -1))[0],
            log_q_label=label.unflatten(1, (k, -1))[0],
        )

    def classify(self, x: Tensor) -> Tensor:
        """log q(y|z1) ``[B, C]`` at the code z1 of zero noise, the mean of a Gaussian q(z1|x)."""
        return self.second.classify(_as_images(self._code(x)))

    def encode(self, batch: Batch) -> SummedLayer:
        """Of q(z2|z1, y) at the likeliest class y and z1 at zero noise."""
        return self.second.encode(replace(batch, x=_as_images(self._code(batch.x))))

    def reconstruct(self, batch: Batch, eps: Tensor) -> Distribution:
        """p(x|z1) at samples z1 of q(z1|x)."""
        sample = self.posterior(self.encoder(batch.x), eps[..., : self.posterior.noise_dim])
        return self.likelihood(self.decoder(sample.z))

    def decode(self, code: Tensor, y: Tensor | None = None) -> Distribution:
        """p(x|z1) at the mean z1 of p(z1|z2, y) of codes z2."""
        return self.likelihood(self.decoder(self.second.decode(code, y).mean.flatten(-3)))

    def simulate(self, eps: Tensor, y: Tensor | None = None) -> Simulated:
        noise, rest = eps.split([self.code_dim, self.second.prior_noise_dim], dim=-1)
        drawn = self.second.simulate(rest, y)
        z = (drawn.p_x.mean + drawn.p_x.stddev * _as_images(noise)).flatten(-3)
        return Simulated(torch.cat([z, drawn.z], -1), self.likelihood(self.decoder(z)))

    def log_joint(self, batch: Batch, z: Tensor) -> Tensor:
        first, second = z.split([self.code_dim, self.second.noise_dim], dim=-1)
        rows = Batch(_as_images(first.flatten(0, 1)), batch.y.repeat(len(z)), batch.index.repeat(len(z)))
        of_codes = self.second.log_joint(rows, second.flatten(0, 1).unsqueeze(0))[0]
        return of_codes.unflatten(0, (len(z), -1)) + self.likelihood(self.decoder(first)).log_prob(batch.x)

    def _code(self, x: Tensor) -> Tensor:
        return self.posterior(self.encoder(x), x.new_zeros(1, len(x), self.posterior.noise_dim)).z[0]

    def traits(self) -> Traits:
        fast = self.posterior.fast_density
        return replace(
            self.second.traits(),
            closed_form_kl=False,
            kl_per_dimension=False,
            fast_density=fast,
            layers=3,
            standard_prior=False,
        )

    def inference_parameters(self) -> Iterator[nn.Parameter]:
        first = chain(self.encoder.parameters(), self.posterior.parameters())
        return chain(first, self.second.inference_parameters())

    def generative_parameters(self) -> Iterator[nn.Parameter]:
        first = chain(self.decoder.parameters(), self.likelihood.parameters())
        return chain(first, self.second.generative_parameters())


def _as_images(codes: Tensor) -> Tensor:
    """``[..., D]`` -> ``[..., 1, 1, D]``."""
    return codes[..., None, None, :]
