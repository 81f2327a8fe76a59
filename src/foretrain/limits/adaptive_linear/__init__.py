"""The two-layer linear model that learns features: loss curves, regimes and compute-optimal plans from a spectrum."""

from foretrain.limits.adaptive_linear._solve import OUTPUTS as OUTPUTS
from foretrain.limits.adaptive_linear._solve import covers as covers
from foretrain.limits.adaptive_linear._solve import solve as solve
