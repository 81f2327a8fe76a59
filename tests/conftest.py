"""Test-wide settings: one thread per worker, a compilation cache that survives the run, strict JAX, quick compilation."""

import importlib.metadata
import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent

# Threads of small matrix products only fight each other, and the other worker.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")


def pytest_configure(config: pytest.Config) -> None:
    """Options of XLA, before anything imports it.

    The quick set spends most of its time in the compiler, and XLA's older loop emitters build the same programs in about
    half of it. The long set, and tests run by hand without `-m "not long"`, compile as users do. XLA ends the process at an
    option that it does not know, hence the versions for which it is known.
    """
    flags = []
    if "PYTEST_XDIST_WORKER" in os.environ:
        flags.append("--xla_cpu_multi_thread_eigen=false")
    known = importlib.metadata.version("jaxlib").startswith("0.10.")
    if known and config.getoption("markexpr") == "not long":
        flags.append("--xla_cpu_use_fusion_emitters=false")
    if flags:
        os.environ.setdefault("XLA_FLAGS", " ".join(flags))


@pytest.fixture(scope="session")
def scaling_data() -> Path:
    """The folder of the tables of real runs: `$FORETRAIN_DATA/scaling`, or `shared/data/scaling` beside the repository."""
    given = os.environ.get("FORETRAIN_DATA")
    places = [Path(given) / "scaling", Path(given)] if given else [_ROOT.parent / "shared" / "data" / "scaling"]
    for place in places:
        if (place / "chinchilla_epoch_245.csv").is_file():
            return place
    pytest.skip(f"the tables of real runs are not in {places[0]}; set FORETRAIN_DATA to the folder that holds scaling/")
