"""The other road for SGD: closed contours through all modes, one kernel value per lag, explicit Volterra sums."""

import numpy as np
import pytest

from foretrain.limits.linear import one_point, spectral_edge, spectral_measure
from foretrain.limits.linear._contour import ellipse

# exp(-2 * 256 * 0.07) = 2e-16 is what the trapezoidal rule leaves; (1 + rate z)^(2 t) stays below 2 up to 400 steps.
RADIUS, POINTS = 0.07, 256


class Volterra:
    """Losses of SGD at all steps, from the formulas of the theory written out mode by mode.

    Nothing of the library's arithmetic is used but kappa at the points of one dense ellipse.
    """

    def __init__(self, lam, power, width, samples, noise=0.0, q=None, radius=RADIUS, points=POINTS):
        self.lam, self.power = np.asarray(lam, float), np.asarray(power, float)
        self.q = self.lam if q is None else np.asarray(q, float)
        self.inv_n, self.inv_p, self.noise = 1.0 / width, 1.0 / samples, noise
        measure = spectral_measure(lam, power, exact=len(self.lam))
        self.edge = float(spectral_edge(measure, width, samples))
        self.z, a = ellipse(self.edge, radius, points)
        self.w = a * self.z
        kappa = one_point(measure, self.z, width, samples).kappa
        df1 = (1.0 / (self.lam + kappa[:, None])) @ self.lam
        self.r1, self.r3 = 1.0 - self.inv_p * df1, 1.0 - self.inv_n * df1
        self.h = (kappa / self.z)[:, None] / (self.lam + kappa[:, None])
        self.phi = self.r1 * (self.h @ (self.lam * self.power)) + noise * self.r1 / self.z
        self.kernel = -self.z * df1
        self.test_kernel = -self.z * self.r3 * (self.h @ self.q)

    def two_point(self):
        """The shifted trace of the remaining error at pairs of a point and a point or its conjugate."""
        z, r1, r3, h = (np.concatenate([part, part.conj()]) for part in (self.z, self.r1, self.r3, self.h))

        def pairs(weights):
            return (self.h * weights) @ h.T

        lam, power, n, p = self.lam, self.power, self.inv_n, self.inv_p
        r1, r3, zz = np.outer(self.r1, r1), np.outer(self.r3, r3), np.outer(self.z, z)
        s1, s2 = pairs(lam), pairs(lam**2)
        # [[1 - g_P, -R3 R3' S1 / N], [-z z' R1 R1' S1 / P, 1 - g_N]] (C0, C2) = sources
        m11, m12, m22 = 1.0 - p * r1 * r3 * s2, -n * r3 * s1, 1.0 - n * r1 * r3 * s2
        m21 = -p * zz * r1 * s1
        first = pairs(lam * power) + p * r1 * r3 * s2 * self.noise / zz
        second = r1 * (pairs(lam**2 * power) + p * self.noise * s1)
        det = m11 * m22 - m12 * m21
        c0, c2 = (first * m22 - m12 * second) / det, (m11 * second - m21 * first) / det
        c1, c3 = r1 * (c0 + self.noise / zz), r3 * c2
        return pairs(self.q * power) + r3 * p * c1 * pairs(self.q * lam) + n * c3 * pairs(self.q)

    def kernels(self, rate, batch, lags):
        """Kernel of the train and of the test loss at these lags, for a constant rate."""
        powers = self.w * (1.0 + rate * self.z) ** (2 * np.asarray(lags)[:, None])
        return [rate**2 / batch * 2.0 * (powers @ g).real for g in (self.kernel, self.test_kernel)]

    def forcing(self, rates):
        """Test and train losses of gradient descent after 0, 1, ... steps with these rates."""
        f = np.cumprod(np.concatenate([np.ones((1, len(self.z))), 1.0 + np.asarray(rates)[:, None] * self.z]), 0)
        w = self.w * f
        test = 2.0 * np.sum((w @ self.two_point()) * np.concatenate([w, w.conj()], 1), -1).real
        return test, 2.0 * ((self.w * f * f) @ self.phi).real

    def losses(self, rates, batch, factor=1.0):
        """Test and train losses of SGD after 0, 1, ... steps; `factor` is that of batches without repetitions."""
        rates = np.asarray(rates, float)
        gd_test, gd_train = self.forcing(rates)
        test, train = gd_test.copy(), gd_train.copy()
        kept = np.zeros((0, len(self.z)), complex)
        for t in range(1, len(rates) + 1):
            # Row s is the product over s < r < t of (1 + rate_r z)^2.
            kept = np.concatenate([kept * (1.0 + rates[t - 1] * self.z) ** 2, np.ones((1, len(self.z)))])
            kick = factor * rates[:t] ** 2 / batch * train[:t]
            train[t] += kick @ (2.0 * (kept @ (self.w * self.kernel)).real)
            test[t] += kick @ (2.0 * (kept @ (self.w * self.test_kernel)).real)
        return test, train


@pytest.fixture(scope="session")
def volterra():
    """The class `Volterra`, for tests in several modules."""
    return Volterra
