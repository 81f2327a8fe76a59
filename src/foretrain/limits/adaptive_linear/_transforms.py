r"""The spectral measures of the finite kernel, as functions on the contour.

With $\hat K=\frac1NA_0\hat\Sigma A_0^\top$ and $\hat b=\frac1{\sqrt N}A_0\hat\Sigma w^\star$ the filter dynamics needs

$$F(z)=z\cdot\tfrac1P\,y^\top(z+G)^{-1}y,\qquad \hat b^\top(\hat K+z)^{-1}\hat b=\text{const}-F(z),\qquad
  \mathrm{Tr}\,\hat K(\hat K+z)^{-1}=\mathrm{df}_1(\kappa),$$

and, where the data are reused, the pair function $D(z,z')$ of the test loss (docs/theory/adaptive-linear.md, (AL.9) to (AL.11)). All of them come from
the renormalized ridge $\kappa(z)$ of the linear limits.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from foretrain.limits._compile import compiled
from foretrain.limits.adaptive_linear._contour import Contour
from foretrain.limits.linear import SpectralMeasure
from foretrain.limits.linear._kappa import follow_rays
from foretrain.limits.linear._pairs import correlation


@dataclasses.dataclass(frozen=True, eq=False)
class Roots:
    r"""$\kappa$ and its sums at the contour points of one pair of sizes.

    Attributes:
        z: $-x$.
        kappa: $\kappa(z)$.
        df1: degrees of freedom.
        r1: $R_1=1-\mathrm{df}_1/P$.
        good: whether every root was followed.
        inv_width: $1/N$.
        inv_samples: $1/P$.
    """

    z: Complex[np.ndarray, " point"]
    kappa: Complex[np.ndarray, " point"]
    df1: Complex[np.ndarray, " point"]
    r1: Complex[np.ndarray, " point"]
    good: bool
    inv_width: float
    inv_samples: float

    def signal(self, measure: SpectralMeasure, noise: float = 0.0) -> Complex[np.ndarray, " point"]:
        r"""$F(z)=R_1\big(\sum_k\lambda_kw_k^{\star2}\frac\kappa{\lambda_k+\kappa}+\sigma^2\big)$, without the noise where $P=\infty$.

        Args:
            measure: spectrum and target; the spectrum is that of the roots, the target may be another.
            noise: variance of the label noise.
        """
        lam, signal = np.asarray(measure.eigenvalues), np.asarray(measure.signal)
        sums = (self.kappa[:, None] / (lam + self.kappa[:, None])) @ signal
        return self.r1 * (sums + (noise if self.inv_samples > 0 else 0.0))

    def pairs(self, measure: SpectralMeasure, noise: float = 0.0) -> Complex[np.ndarray, "2 point point"]:
        r"""$D(z_i,z_j)$ and $D(z_i,\bar z_j)$, whose double integral with two filters is the test loss."""
        lam = np.asarray(measure.eigenvalues)
        u = 1.0 / (lam + self.kappa[:, None])
        a1 = (u @ np.asarray(measure.signal))[:, None]
        forms = []
        for v, kappa in ((u, self.kappa), (np.conj(u), np.conj(self.kappa))):
            s, a = ((u * np.asarray(weight)) @ v.T for weight in (measure.trace, measure.signal))
            left, right = self.kappa[:, None], kappa[None, :]
            forms.append(
                correlation("both", left, right, self.df1[:, None], s, a, a1, self.inv_width, self.inv_samples, noise)
            )
        return np.stack(forms)

    def mean_residual(self, eigenvalues) -> Complex[np.ndarray, "mode point"]:
        r"""$\frac\kappa{\lambda+\kappa}$: integrated with $\psi/x$ it is the mean of $v_k/w_k^\star$."""
        lam = np.asarray(eigenvalues)[:, None]
        return self.kappa / (lam + self.kappa)


def roots(
    measure: SpectralMeasure,
    around: Contour,
    width: Float[np.ndarray, " problem"],
    samples: Float[np.ndarray, " problem"],
) -> list[Roots]:
    """The roots on one contour for a list of sizes, `inf` allowed; each is followed inwards from infinity."""
    z = -around.x
    found = []
    with jax.enable_x64(True):
        nodes = jax.device_put(jax.tree.map(np.asarray, measure))
        for n, p in zip(width, samples, strict=True):
            inv_n, inv_p = 1.0 / float(n), 1.0 / float(p)
            kappa, good = _follow(nodes, z[:, None], inv_n, inv_p)
            df1 = _degrees(nodes, kappa)
            kappa, df1 = np.asarray(kappa), np.asarray(df1)
            r1, r3 = 1.0 - inv_p * df1, 1.0 - inv_n * df1
            if inv_p > inv_n:
                # The smaller factor from the product, which keeps its digits where it vanishes.
                r1 = z / (kappa * r3)
            found.append(Roots(z, kappa, df1, r1, bool(good), inv_n, inv_p))
    return found


@partial(compiled)
def _follow(measure, z, inv_width, inv_samples):
    kappa, good = follow_rays(measure, z, inv_width, inv_samples)
    return kappa[:, 0], jnp.all(good)


@partial(compiled)
def _degrees(measure, kappa):
    return (1.0 / (measure.eigenvalues[None, :] + kappa[:, None])) @ measure.trace.astype(kappa.dtype)
