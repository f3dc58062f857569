"""The prior that is a flow."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributions import Distribution

from vaelab.errors import choice, integer
from vaelab.posteriors.transforms import StandardNormalNoise, autoregressive_transform, flow_distribution
from vaelab.priors.context import used_context
from vaelab.priors.inference import Inference


class FlowPrior(nn.Module):
    """p(z) = N(f(z); 0, I) |det df/dz|, f learned (Chen et al. 2017, "Variational lossy autoencoder").

    The density costs one evaluation of f. A sample inverts f on its noise:

    - ``nsf``: autoregressive rational-quadratic splines on [-5, 5] (Durkan et al. 2019), D evaluations;
    - ``maf``: autoregressive and affine (Papamakarios et al. 2017), D evaluations;
    - ``realnvp``: affine, in two halves (as RealNVP, Dinh et al. 2017), two evaluations.

    Args:
        latent_dim: D.
        kind: one of the above.
        num_transforms: steps of f, the order of the dimensions turned around between them.
        hidden: widths of each step's network.
        context_dim: length of a context that f depends on; 0 for none.

    Raises:
        SettingError: an unknown kind, a number of steps or a width that is no positive integer.
    """

    needs_inference = False
    KINDS = ("nsf", "maf", "realnvp")

    def __init__(
        self,
        latent_dim: int,
        kind: str = "nsf",
        num_transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        choice("prior.kind", kind, self.KINDS)
        self.context_dim = integer("prior.context_dim", context_dim, 0)
        self.noise_dim = latent_dim
        self.base = StandardNormalNoise(latent_dim)
        self.transform = autoregressive_transform(
            "prior",
            latent_dim,
            context_dim,
            num_transforms,
            hidden,
            spline=kind == "nsf",
            coupling=kind == "realnvp",
        )

    def forward(self, infer: Inference | None = None, context: Tensor | None = None) -> Distribution:
        """p(z), event shape ``[D]``; given a ``context [B, context_dim]``, p(z|context) of batch shape ``[B]``."""
        context = used_context(context, self.context_dim)
        batch_shape = () if context is None else context.shape[:-1]
        return flow_distribution(self.transform(context), self.base(batch_shape))

    def draw(self, eps: Tensor, infer: Inference | None = None, context: Tensor | None = None) -> Tensor:
        """Samples ``z [..., D]`` from standard normal noise ``eps [..., noise_dim]``."""
        return self.transform(used_context(context, self.context_dim)).inv(eps)
