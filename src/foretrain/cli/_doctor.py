"""`foretrain doctor`: what this installation can do, and what it lacks."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import Any

from foretrain import __version__
from foretrain.cli._console import Voice
from foretrain.errors import ForetrainError
from foretrain.studies._store import DEFAULT_FOLDER

_CORE = (
    "jax",
    "jaxlib",
    "numpy",
    "scipy",
    "scikit-learn",
    "xarray",
    "h5netcdf",
    "equinox",
    "optimistix",
    "diffrax",
    "lineax",
    "optax",
    "typer",
    "rich",
)
_EXTRAS = {"plot": ("matplotlib",), "report": ("matplotlib", "jinja2"), "torch": ("torch",)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine() -> dict[str, Any]:
    """Versions, devices, precision, extras and data of this installation."""
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        double = str(jnp.ones(1).dtype)
    extras = {}
    for extra, packages in _EXTRAS.items():
        missing = [p for p in packages if importlib.util.find_spec(p) is None]
        extras[extra] = {"missing": missing, "install": f"pip install 'foretrain[{extra}]'" if missing else ""}
    return {
        "foretrain": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "executable": sys.executable,
        "packages": {name: _version(name) for name in _CORE},
        "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()],
        "processors": os.cpu_count(),
        "precision": {
            "default": "float64" if jax.config.read("jax_enable_x64") else "float32",
            "theory": double,
        },
        "extras": extras,
        "data": {"digits": "in scikit-learn", "fashion-mnist": _fashion()},
        "store": str(Path(os.environ.get("FORETRAIN_STORE") or DEFAULT_FOLDER).absolute()),
        "compilation cache": os.environ.get("JAX_COMPILATION_CACHE_DIR", "off"),
    }


def _fashion() -> str:
    from foretrain.tasks import FashionMNIST

    try:
        return f"in {FashionMNIST()._folder()}"
    except ForetrainError as error:
        return str(error)


def run_doctor(voice: Voice) -> None:
    """Print what `examine` found."""
    found = examine()
    if voice.as_json:
        voice.json(found)
        return
    lines = [
        f"foretrain {found['foretrain']}, Python {found['python']}, {found['platform']}",
        "packages: " + ", ".join(f"{n} {v or 'MISSING'}" for n, v in found["packages"].items()),
        f"devices: {', '.join(found['devices'])}; {found['processors']} processors",
        f"precision: theory in {found['precision']['theory']}, networks in {found['precision']['default']} unless asked",
    ]
    for extra, state in found["extras"].items():
        words = (
            f"missing {', '.join(state['missing'])}; install with: {state['install']}" if state["missing"] else "ready"
        )
        lines.append(f"extra [{extra}]: {words}")
    lines += [f"data {name}: {where}" for name, where in found["data"].items()]
    lines.append(f"store: {found['store']}")
    lines.append(f"compilation cache: {found['compilation cache']}")
    voice.show(*lines)
