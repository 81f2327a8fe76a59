"""Studies: a problem with its sweep from a TOML file; run, compared, stored and resumed."""

from foretrain.studies._compare import Summary as Summary
from foretrain.studies._compare import compare as compare
from foretrain.studies._compare import pair as pair
from foretrain.studies._compare import summarize as summarize
from foretrain.studies._measure import measure_study as measure_study
from foretrain.studies._measure import measured_curves as measured_curves
from foretrain.studies._measure import spectrum_for_plot as spectrum_for_plot
from foretrain.studies._run import solve_study as solve_study
from foretrain.studies._run import train_study as train_study
from foretrain.studies._store import Store as Store
from foretrain.studies._study import SCHEMA as SCHEMA
from foretrain.studies._study import Study as Study
from foretrain.studies._study import TimeRange as TimeRange
from foretrain.studies._study import TransferOptions as TransferOptions
from foretrain.studies._study import parse_study as parse_study
from foretrain.studies._study import read_study as read_study
from foretrain.studies._transfer import Transfer as Transfer
from foretrain.studies._transfer import transfer as transfer
from foretrain.studies._transfer_recommend import Recommendation as Recommendation
