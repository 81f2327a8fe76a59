"""The two-layer linear model that learns features: loss curves, regimes and compute-optimal plans from a spectrum."""

from foretrain.limits.adaptive_linear._frontier import compute_optimal_frontier as compute_optimal_frontier
from foretrain.limits.adaptive_linear._regimes import Regime as Regime
from foretrain.limits.adaptive_linear._regimes import regime as regime
from foretrain.limits.adaptive_linear._solve import OUTPUTS as OUTPUTS
from foretrain.limits.adaptive_linear._solve import covers as covers
from foretrain.limits.adaptive_linear._solve import solve as solve
