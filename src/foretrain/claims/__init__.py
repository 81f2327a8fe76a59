"""Do we reproduce what the source papers state? One module per paper, run and judged."""

from foretrain.claims._claim import VERDICTS as VERDICTS
from foretrain.claims._claim import Claim as Claim
from foretrain.claims._papers import PAPERS as PAPERS
from foretrain.claims._papers import Paper as Paper
from foretrain.claims._papers import find_paper as find_paper
from foretrain.claims._papers import run_claims as run_claims
