"""The VampPrior: a mixture of posteriors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaelab.errors import SettingError, choice, integer
from vaelab.priors.inference import Inference
from vaelab.priors.mixture import Mixture, choose

NO_CONTEXT = "pseudo-inputs have no labels, so that the VampPrior cannot depend on a context"


class VampPrior(nn.Module):
    """p(z) = sum_m w_m q(z|u_m), the posterior averaged over M learned pseudo-inputs u_m (Tomczak & Welling 2018, "VAE with a VampPrior").

    It is handed the model's inference and owns no encoder. Its density takes the posterior's density at any z, which is slow where q is an inverse
    autoregressive flow.

    Pseudo-inputs stay inside the pixel range: u = low + (high - low) sigmoid(r), r learned.

    Args:
        latent_dim: D.
        image_shape: ``(C, H, W)``.
        pixel_range: smallest and largest pixel value.
        posterior_noise_dim: number of standard normal numbers that one sample of the posterior takes.
        num_components: M.
        init: ``random`` (r from N(0, 1)) or ``data`` (images, which :meth:`initialise` is given).
        learned_weights: learn w_m too; otherwise w_m = 1 / M, as in the paper.
        context_dim: has to be 0.

    Attributes:
        num_images_wanted: number of images that :meth:`initialise` wants; 0 with ``init=random``.

    Raises:
        SettingError: M, ``init`` or ``learned_weights``; a context.
    """

    needs_inference = True
    choosing_dim = 1  # of the numbers in the noise of a sample, the last one says which component
    INITS = ("random", "data")
    #: how far from the ends of the pixel range an image starts, in parts of it: the slope of the sigmoid vanishes there
    MARGIN = 0.01

    logits: Tensor

    def __init__(
        self,
        latent_dim: int,
        image_shape: Sequence[int],
        pixel_range: Sequence[float],
        posterior_noise_dim: int,
        num_components: int = 500,
        init: str = "random",
        learned_weights: bool = False,
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        if context_dim:
            raise SettingError("prior", "vamp", f"{NO_CONTEXT}; use another prior for a conditional model")
        integer("prior.num_components", num_components, 1)
        choice("prior.init", init, self.INITS)
        if not isinstance(learned_weights, bool):
            raise SettingError("prior.learned_weights", learned_weights, "must be true or false")
        self.latent_dim = latent_dim
        self.posterior_noise_dim = posterior_noise_dim
        self.noise_dim = posterior_noise_dim + 1  # the last number chooses the component
        self.low, self.high = map(float, pixel_range)
        self.num_images_wanted = num_components if init == "data" else 0
        self.raw = nn.Parameter(torch.randn(num_components, *image_shape))
        logits = torch.zeros(num_components)
        if learned_weights:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    @property
    def pseudo_inputs(self) -> Tensor:
        """u ``[M, C, H, W]``, inside the pixel range."""
        return self.low + (self.high - self.low) * torch.sigmoid(self.raw)

    @torch.no_grad()
    def initialise(self, images: Tensor) -> None:
        """Let the pseudo-inputs start at ``images [M, C, H, W]``, moved off the ends of the pixel range by a hundredth of it.

        Raises:
            ValueError: another number or shape of images.
        """
        if images.shape != self.raw.shape:
            wanted, given = list(self.raw.shape), list(images.shape)
            raise ValueError(f"the prior wants images of shape {wanted}, given are {given}")
        share = (images.to(self.raw) - self.low) / (self.high - self.low)
        self.raw.copy_(torch.logit(share.clamp(self.MARGIN, 1 - self.MARGIN)))

    def forward(self, infer: Inference | None = None, context: Tensor | None = None) -> Mixture:
        """p(z), event shape ``[D]``; depends on q(z|x), which ``infer`` gives."""
        return Mixture(self.logits, self._checked(infer, context)(self.pseudo_inputs))

    def draw(self, eps: Tensor, infer: Inference | None = None, context: Tensor | None = None) -> Tensor:
        """Samples ``z [..., D]`` from standard normal noise ``eps [..., noise_dim]``."""
        infer = self._checked(infer, context)
        component = choose(self.logits, eps[..., -1])
        noise = eps[..., :-1].reshape(1, math.prod(component.shape), self.posterior_noise_dim)
        z = infer.sample(self.pseudo_inputs[component.flatten()], noise).z
        return z.view(*component.shape, self.latent_dim)

    def _checked(self, infer: Inference | None, context: Tensor | None) -> Inference:
        if context is not None:
            raise ValueError(NO_CONTEXT)
        if infer is None:
            raise ValueError("this prior is made of posteriors: it needs `infer`, x -> q(z|x)")
        if infer.noise_dim != self.posterior_noise_dim:
            raise ValueError(
                f"the prior was built for posterior_noise_dim={self.posterior_noise_dim}, the posterior takes {infer.noise_dim}"
            )
        return infer
