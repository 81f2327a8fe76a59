import sys
from pathlib import Path

# The made-up comparisons are shared by the modules of this folder, which importlib mode does not put on the path.
sys.path.insert(0, str(Path(__file__).parent))
