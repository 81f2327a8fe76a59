"""One fit of the Gram rows with a group left out, tested on everything that it was not fitted to."""

import numpy as np
from jaxtyping import Bool, Float, Int

from foretrain.kernels._resolvent import Residuals, Sample


class LeftOut:
    """A sample without the rows of one group, and what its predictions say of the other rows.

    Rows of other groups test it for the moments; rows of its own group, which belong to the jackknife's hold-out, test
    its eigenfunctions.

    Args:
        gram: K of all Gram rows.
        targets: Their targets.
        groups: The group of each.
        group: The one that is left out, or `None`.
    """

    def __init__(
        self,
        gram: Float[np.ndarray, "rows rows"],
        targets: Float[np.ndarray, "rows outputs"],
        groups: Int[np.ndarray, " rows"],
        group: int | None,
    ):
        self.group, self.groups, self.targets = group, groups, targets
        self.kept = self.keeps(groups)
        self.sample = Sample(gram[np.ix_(self.kept, self.kept)], targets[self.kept])
        self.trace = self.total = 0.0

    def keeps(self, groups: Int[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
        """Which rows of these groups are not left out."""
        return np.ones(len(groups), bool) if self.group is None else groups != self.group

    def prepare(self, kappa: Float[np.ndarray, " cutoffs"], modes: int, gram: Float[np.ndarray, "rows rows"]) -> None:
        """Residuals of its own rows, eigenfunctions on the left-out Gram rows; then the eigenvectors are let go."""
        self.residuals = Residuals(self.sample, kappa)
        self._own = self.sample.coefficients[:modes] / np.sqrt(self.sample.rows)
        self._map = self.sample.eigenfunction_map(modes)
        self.sample.vectors = np.empty((0, 0))
        self._tested, self._product, self._square = 0, np.zeros_like(self._own), np.zeros(modes)
        self._hold_out(gram[np.ix_(~self.kept, self.kept)], self.targets[~self.kept])

    def test(
        self,
        block: Float[np.ndarray, "fresh rows"],
        targets: Float[np.ndarray, "fresh outputs"],
        groups: Int[np.ndarray, " fresh"],
    ) -> None:
        """Take fresh rows: those of other groups for the residuals, those of the group left out for the eigenfunctions."""
        kept = self.keeps(groups)
        self.residuals.add(block[np.ix_(kept, self.kept)], targets[kept])
        self._hold_out(block[np.ix_(~kept, self.kept)], targets[~kept])

    def _hold_out(self, block: Float[np.ndarray, "others rows"], targets: Float[np.ndarray, "others outputs"]) -> None:
        if len(targets):
            functions = block @ self._map
            self._product += functions.T @ targets
            self._square += np.sum(functions**2, axis=0)
            self._tested += len(targets)

    def held_out(self) -> tuple[Float[np.ndarray, " modes"], Float[np.ndarray, " modes"]]:
        """Cross products of the modes' coefficients with those on the left-out rows, and the modes' mean squares there."""
        return np.sum(self._own * self._product, axis=1) / self._tested, self._square / self._tested
