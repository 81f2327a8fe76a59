"""Random features, kernel and linear regression: learning curves from a spectrum, at any size, time and noise."""

from foretrain.limits.linear._curves import LinearCurves as LinearCurves
from foretrain.limits.linear._curves import linear_curves as linear_curves
from foretrain.limits.linear._data import kernel_of as kernel_of
from foretrain.limits.linear._data import measure as measure
from foretrain.limits.linear._dynamics import Descent as Descent
from foretrain.limits.linear._dynamics import Dynamics as Dynamics
from foretrain.limits.linear._dynamics import Flow as Flow
from foretrain.limits.linear._dynamics import HeavyBall as HeavyBall
from foretrain.limits.linear._dynamics import InertialFlow as InertialFlow
from foretrain.limits.linear._edge import max_stable_lr as max_stable_lr
from foretrain.limits.linear._edge import outlier as outlier
from foretrain.limits.linear._edge import spectral_edge as spectral_edge
from foretrain.limits.linear._losses import losses as losses
from foretrain.limits.linear._measure import IndexNodes as IndexNodes
from foretrain.limits.linear._measure import SpectralMeasure as SpectralMeasure
from foretrain.limits.linear._measure import index_nodes as index_nodes
from foretrain.limits.linear._measure import power_law_measure as power_law_measure
from foretrain.limits.linear._measure import spectral_measure as spectral_measure
from foretrain.limits.linear._points import OnePoint as OnePoint
from foretrain.limits.linear._points import TwoPoint as TwoPoint
from foretrain.limits.linear._points import one_point as one_point
from foretrain.limits.linear._points import two_point as two_point
from foretrain.limits.linear._solve import PARTS as PARTS
from foretrain.limits.linear._solve import covers as covers
from foretrain.limits.linear._solve import solve as solve
from foretrain.limits.linear._static import ridge_losses as ridge_losses
