"""Laws of real runs: read a table, fit a law with honest uncertainty, forecast, and plan."""

from foretrain.laws._checks import design_refusals as design_refusals
from foretrain.laws._checks import design_warnings as design_warnings
from foretrain.laws._checks import distinct_rows as distinct_rows
from foretrain.laws._fit import Estimate as Estimate
from foretrain.laws._fit import Fit as Fit
from foretrain.laws._fit import Objective as Objective
from foretrain.laws._fit import fit as fit
from foretrain.laws._forms import CATALOGUE as CATALOGUE
from foretrain.laws._forms import law_for as law_for
from foretrain.laws._forms import law_named as law_named
from foretrain.laws._law import Law as Law
from foretrain.laws._law import Parameter as Parameter
from foretrain.laws._law import law_of as law_of
from foretrain.laws._law import sum_of_powers as sum_of_powers
from foretrain.laws._misfit import Misfit as Misfit
from foretrain.laws._misfit import misfit as misfit
from foretrain.laws._plan import plan as plan
from foretrain.laws._planner import Plan as Plan
from foretrain.laws._read import read_runs as read_runs
from foretrain.laws._runs import Runs as Runs
from foretrain.laws._theory_forms import feature_learning as feature_learning
from foretrain.laws._theory_forms import random_features as random_features
from foretrain.laws._theory_forms import reused_data as reused_data
from foretrain.laws._validation import leave_out_largest as leave_out_largest
from foretrain.laws._validation import other_forms as other_forms
