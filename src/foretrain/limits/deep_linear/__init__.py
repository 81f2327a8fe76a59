"""Deep linear networks from random initialization: learning curves at any width, depth, richness and amount of data."""

from foretrain.limits.deep_linear._lr_sweep import LearningRateSweep as LearningRateSweep
from foretrain.limits.deep_linear._lr_sweep import lr_sweep as lr_sweep
from foretrain.limits.deep_linear._points import march_bytes as march_bytes
from foretrain.limits.deep_linear._solve import covers as covers
from foretrain.limits.deep_linear._solve import solve as solve
from foretrain.limits.deep_linear._weights import weights_of as weights_of
