"""The optional packages of this room, imported where they are used."""

import importlib
from typing import Any

from foretrain.errors import MissingExtra


def require(module: str, who: str) -> Any:
    """The module `module`, or an error that says how to get it.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise MissingExtra(f"{who}: {package} is not installed; run: pip install 'foretrain[report]'") from error
