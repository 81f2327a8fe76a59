"""The model itself, in NumPy: what it is defined as, with nothing of the theory."""

import numpy as np
import pytest


class Network:
    r"""$f=\frac1Nw^\top A\psi$ with every weight: projected descent on $A$, descent on $w$, explicit steps."""

    def __init__(self, lam, target, width, richness, seed):
        self.rng = np.random.default_rng(seed)
        self.lam, self.target, self.richness = np.asarray(lam, float), np.asarray(target, float), richness
        self.a0 = self.rng.standard_normal((width, len(self.lam)))
        self.a, self.w, self.width = self.a0.copy(), np.zeros(width), width

    def data(self, count, noise):
        psi = self.rng.standard_normal((count, len(self.lam))) * np.sqrt(self.lam)
        return psi, np.sqrt(noise) * self.rng.standard_normal(count)

    @property
    def residual(self):
        return self.target - self.a.T @ self.w / self.width

    def push(self, force, rate):
        """One step against the mean force on the residual."""
        up = force @ self.a0.T @ self.a0 / self.width
        self.w, self.a = self.w + rate * self.a @ force, self.a + rate * self.richness * np.outer(self.w, up)

    def population(self):
        return self.lam * self.residual

    @staticmethod
    def empirical(psi, noise, residual):
        return psi.T @ (psi @ residual + noise) / len(psi)

    @property
    def loss(self):
        return float(self.lam @ self.residual**2)

    @property
    def norm(self):
        return float(self.w @ self.w) / self.width


def rich_flow(matrix, force, richness, times, step):
    r"""The reduction (AL.6), by Runge-Kutta steps: `force(beta)` is $\hat\Sigma v$, `matrix` is $A_0/\sqrt N$."""

    def slope(theta):
        squared = theta @ theta
        gain = 0.5 + 0.5 * np.sqrt(1.0 + 4.0 * richness * squared)
        g = matrix @ force(matrix.T @ theta)
        return gain * g + richness / gain * theta * (theta @ g)

    theta, now, found = np.zeros(len(matrix)), 0.0, []
    for time in times:
        count = int(np.ceil((time - now) / step))
        h = (time - now) / max(count, 1)
        for _ in range(count):
            k1 = slope(theta)
            k2 = slope(theta + 0.5 * h * k1)
            k3 = slope(theta + 0.5 * h * k2)
            theta = theta + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + slope(theta + h * k3))
        now = time
        found.append(theta.copy())
    return np.array(found)


@pytest.fixture(scope="session")
def network():
    """The class `Network`."""
    return Network


@pytest.fixture(scope="session")
def reduced():
    """The function `rich_flow`."""
    return rich_flow
