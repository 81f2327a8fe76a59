r"""Deterministic equivalents of products of two resolvents, for any matrix between them."""

import dataclasses

import numpy as np
from jaxtyping import Complex, Float

from foretrain.errors import InvalidInput
from foretrain.limits.linear._measure import spectral_measure
from foretrain.limits.linear._points import one_point

Equivalent = Complex[np.ndarray, "mode mode"] | Complex[np.ndarray, " mode"]


@dataclasses.dataclass(frozen=True, eq=False)
class ResolventProduct:
    r"""What products of $G=(z+F\hat\Sigma)^{-1}$ and $G'=(z'+F\hat\Sigma)^{-1}$ tend to, in the eigenbasis of $\Sigma$.

    Attributes:
        plain: $G\,M\,G'^\top$; its trace with a test covariance is a loss on test inputs.
        mixed: $G\,M\,G'^\top\hat\Sigma$.
        seen: $\hat\Sigma\,G\,M\,G'^\top\hat\Sigma$; its trace is what the training set sees of it.

    Vectors, the diagonals, if $M$ is diagonal, else matrices.
    """

    plain: Equivalent
    mixed: Equivalent
    seen: Equivalent


def resolvent_two_point(
    eigenvalues: Float[np.ndarray, " mode"],
    z: complex,
    z2: complex,
    width: float = np.inf,
    samples: float = np.inf,
    matrix: Float[np.ndarray, "mode mode"] | Float[np.ndarray, " mode"] | None = None,
) -> ResolventProduct:
    r"""Deterministic equivalents of $G\,M\,G'^\top$ and of its products with $\hat\Sigma$.

    These are (SG.3) to (SG.5) of docs/theory/sgd.md (arXiv:2502.05074). $G=(z+F\hat\Sigma)^{-1}$ with $\hat\Sigma$ the sample covariance of $P$ Gaussian samples of covariance $\Sigma$ and $F=\frac1NA^\top A$; at
    infinite width $F=1$ and $G$ is the resolvent of the sample covariance. With
    $H_k=1/(z+\lambda_kR_1R_3)$,

    $$G\,M\,G'^\top\simeq HMH'+\frac{R_3R_3'}PC_1\,H\Sigma H'+\frac1NC_3\,HH',$$

    where $C_1$ and $C_3$ solve the two equations of the two-point functions with $M$ in the place of $w^\star w^{\star\top}$. Entries
    fluctuate around this by $O(1/\sqrt N+1/\sqrt P)$; traces by much less. For losses along training use `linear_curves`.

    Args:
        eigenvalues: $\lambda_k>0$ of $\Sigma$, one per mode.
        z: nonzero, not on the negative axis between minus the edge and 0.
        z2: $z'$, likewise.
        width: $N$, `inf` allowed.
        samples: $P$, `inf` allowed.
        matrix: $M$ in the eigenbasis of $\Sigma$, a matrix or the diagonal of one; the identity by default.

    Raises:
        InvalidInput: shapes that do not match, eigenvalues that are not positive, points on the spectrum or at 0.

    Example:
        >>> import numpy as np
        >>> from foretrain.limits.linear import resolvent_two_point
        >>> product = resolvent_two_point(np.ones(100), 0.5, 0.5, samples=200.0)
        >>> rng = np.random.default_rng(0)
        >>> data = rng.standard_normal((200, 100))
        >>> g = np.linalg.inv(0.5 * np.eye(100) + data.T @ data / 200)
        >>> bool(abs(np.trace(g @ g) / product.plain.sum().real - 1) < 0.05)
        True
    """
    lam = np.asarray(eigenvalues, float)
    if lam.ndim != 1 or not np.all(np.isfinite(lam) & (lam > 0)):
        raise InvalidInput("resolvent_two_point(eigenvalues): expected a vector of finite numbers > 0.")
    m = np.ones_like(lam) if matrix is None else np.asarray(matrix)
    if m.shape not in (lam.shape, (lam.size, lam.size)) or not np.all(np.isfinite(m)):
        raise InvalidInput(
            f"resolvent_two_point(matrix): expected finite entries of shape ({lam.size},) or ({lam.size}, {lam.size}), "
            f"got shape {m.shape}."
        )
    if z == 0 or z2 == 0:
        raise InvalidInput(
            "resolvent_two_point(z): expected nonzero points, got 0; for the end of training use ridge_losses."
        )
    measure = spectral_measure(lam, np.zeros_like(lam), exact=lam.size)
    left, right = one_point(measure, z, width, samples), one_point(measure, z2, width, samples)
    inv_n, inv_p = 1.0 / float(width), 1.0 / float(samples)
    h, h_ = left.resolvent(lam), right.resolvent(lam)
    r1, r3, zz = left.R1 * right.R1, left.R3 * right.R3, complex(z) * complex(z2)
    weight = (np.diagonal(m) if m.ndim == 2 else m) * h * h_
    a, e = np.sum(lam * weight), np.sum(lam**2 * weight)
    s1, s2 = np.sum(lam * h * h_), np.sum(lam**2 * h * h_)
    gamma = r1 * r3 * s2
    # (1 - gamma / P) C0 - r3 s1 C2 / N = a,  (1 - gamma / N) C2 - zz r1 s1 C0 / P = r1 e.
    system = np.array([[1.0 - inv_p * gamma, -inv_n * r3 * s1], [-inv_p * zz * r1 * s1, 1.0 - inv_n * gamma]])
    c0, c2 = np.linalg.solve(system, np.array([a, r1 * e]))
    c1, c3 = r1 * c0, r3 * c2
    samples_part, features_part = inv_p * c1 * lam * h * h_, inv_n * c3 * h * h_

    def product(rows, columns, diagonal):
        if m.ndim == 1:
            return rows * m * columns + diagonal
        return rows[:, None] * m * columns[None, :] + np.diag(diagonal)

    seen, seen_ = left.R1 * lam, right.R1 * lam
    return ResolventProduct(
        product(h, h_, r3 * samples_part + features_part),
        product(h, seen_ * h_, -complex(z2) * left.R3 * samples_part + seen_ * features_part),
        product(seen * h, seen_ * h_, zz * samples_part + seen * seen_ * features_part),
    )
