"""Modules that the tests of this folder share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for `deep_linear_dense` and `deep_linear_networks`
