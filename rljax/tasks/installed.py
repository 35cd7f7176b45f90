"""Find what installed packages carry, and say how to install the ones that are missing."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from rljax.tasks.sources import DataError


def package_folder(name: str, *, what: str, install: str) -> Path:
    """Return the folder of an installed package, without importing it.

    what: who needs it, for the message; install: what pip is to install, such as "polib". Raises
    DataError with the command where the package is missing.
    """
    spec = importlib.util.find_spec(name)
    locations = spec.submodule_search_locations if spec else None
    if not locations:
        raise DataError(f"{what} needs the package {name}: pip install {install}")
    return Path(locations[0])


def import_package(name: str, *, what: str, install: str = "'rljax[tasks]'") -> ModuleType:
    """Import a package, or a module of it, that an extra installs.

    Raises DataError with the pip command where the package is missing.
    """
    top = name.partition(".")[0]
    if importlib.util.find_spec(top) is None:
        raise DataError(f"{what} needs the package {top}: pip install {install}")
    return importlib.import_module(name)
