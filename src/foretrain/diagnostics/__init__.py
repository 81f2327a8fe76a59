"""Look inside networks: whether sizes scale as their parameterization promises."""

from foretrain.diagnostics._causes import likely_cause as likely_cause
from foretrain.diagnostics._coordinate_check import coordinate_check as coordinate_check
from foretrain.diagnostics._declared import network_model as network_model
from foretrain.diagnostics._expected import Quantity as Quantity
from foretrain.diagnostics._expected import expected_exponent as expected_exponent
from foretrain.diagnostics._model import CheckedModel as CheckedModel
from foretrain.diagnostics._model import swap_by_path as swap_by_path
from foretrain.diagnostics._result import CoordinateCheck as CoordinateCheck
from foretrain.diagnostics._result import CoordinateRow as CoordinateRow
from foretrain.diagnostics._slopes import LimitSlope as LimitSlope
from foretrain.diagnostics._slopes import Slope as Slope
from foretrain.diagnostics._slopes import limit_slope as limit_slope
from foretrain.diagnostics._slopes import log_slope as log_slope
