r"""Windows: which rows of a table a law is fitted to.

A law of few parameters cannot follow a table everywhere. Far from the best size of a budget, starved and oversized runs bend away from it, and
the first points of a curve obey another law than the last. A window leaves such rows out by a rule that knows cost and loss of the rows alone.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

_SAME_COST = 0.05  # in ln; budgets nearer than this are one


@dataclasses.dataclass(frozen=True)
class Window:
    r"""A rule that keeps some of the rows (SL.31), (SL.32).

    Args:
        near: Keep rows whose response is at most this share above the lowest at their cost or below; `None` keeps all.
        dear: Keep rows in the upper part of the range of $\ln$ cost: 0.5 is the upper half, 0 all of it.

    Example:
        >>> import numpy as np
        >>> from foretrain.laws import Window
        >>> Window(near=0.1).keep(np.zeros(3), np.array([2.0, 2.1, 2.5]), np.ones(3, bool)).tolist()
        [True, True, False]
    """

    near: float | None = None
    dear: float = 0.0

    @property
    def words(self) -> str:
        """For people."""
        if self.near is not None:
            return f"rows within {100 * self.near:g} % of the best of their budget"
        return f"the dearest {100 * (1 - self.dear):.0f} % of the range of ln cost" if self.dear else "all rows"

    @property
    def everything(self) -> bool:
        """Whether it keeps all rows."""
        return self.near is None and not self.dear

    def keep(
        self,
        log_cost: Float[np.ndarray, " rows"],
        response: Float[np.ndarray, " rows"],
        seen: Bool[np.ndarray, " rows"],
    ) -> Bool[np.ndarray, " rows"]:
        """The rows that are kept of those seen; rows that are not seen decide nothing.

        Args:
            log_cost: Logarithm of the cost of every row.
            response: What the law predicts, of every row.
            seen: The rows that may be looked at.
        """
        kept = seen.copy()
        if not seen.any():
            return kept
        if self.dear:
            low, high = log_cost[seen].min(), log_cost[seen].max()
            kept &= log_cost >= low + self.dear * (high - low)
        if self.near is not None:
            order = np.flatnonzero(seen)[np.argsort(log_cost[seen], kind="stable")]
            lowest = np.minimum.accumulate(response[order])
            place = np.searchsorted(log_cost[order], log_cost[order] + _SAME_COST, side="right") - 1
            kept[order] &= response[order] <= lowest[place] * (1 + self.near)
        return kept


ALL = Window()
# Of laws of several variables, by nearness to the frontier; of laws of one, by cost.
WINDOWS = (ALL, Window(near=0.1), Window(near=0.03))
WINDOWS_OF_ONE = (ALL, Window(dear=1 / 3), Window(dear=0.5))
