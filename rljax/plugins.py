"""Find what a flag names: in an installed module, or in a file of the user's own."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from rljax.errors import UserError


class Plugin(NamedTuple):
    """What kind of thing is looked for; its errors are of one class and name the flag's value."""

    kind: str
    """What it is called in messages, such as "reward"."""
    forms: str
    """One sentence on what such a flag may say."""
    error: type[UserError]

    def load(self, spec: str, source: str, name: str) -> Any:
        """Return `name` of `source`: "package.module", or "path/to/file.py".

        spec: the flag's value, for messages. Raises `error` when the module or file is missing or
        fails to import, or has no such name.
        """
        is_file = source.endswith(".py")
        module = self._file(spec, Path(source)) if is_file else self._module(spec, source)
        if not hasattr(module, name):
            things = vars(module).items()
            known = sorted(n for n, v in things if callable(v) and not n.startswith("_"))
            raise self.error(f"{self.kind} {spec!r}: {source} has no {name!r}; it has {known}")
        return getattr(module, name)

    def split(self, spec: str) -> tuple[str, str]:
        """Split "source:name"; raise `error` for anything else."""
        source, colon, name = spec.rpartition(":")
        if not colon or not source or not name:
            raise self.error(f"unknown {self.kind} {spec!r}: {self.forms}")
        return source, name

    def _module(self, spec: str, name: str) -> ModuleType:
        """Import a module by its dotted name."""
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise self.error(
                f"{self.kind} {spec!r}: cannot import {name!r}: {error}. {self.forms}; a file "
                "needs its .py"
            ) from error
        except Exception as error:
            raise self.error(
                f"{self.kind} {spec!r}: importing {name!r} failed: {error!r}"
            ) from error

    def _file(self, spec: str, path: Path) -> ModuleType:
        """Import a Python file under a name of its own, so that it shadows no module."""
        path = path.expanduser().resolve()
        if not path.is_file():
            raise self.error(f"{self.kind} {spec!r}: there is no file {path}")
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
        name = f"rljax_user_{self.kind}_{digest}"
        module_spec = importlib.util.spec_from_file_location(name, path)
        if module_spec is None or module_spec.loader is None:
            raise self.error(f"{self.kind} {spec!r}: {path} cannot be read as a Python module")
        module = importlib.util.module_from_spec(module_spec)
        sys.modules[name] = module
        try:
            module_spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise self.error(f"{self.kind} {spec!r}: running {path} failed: {error!r}") from error
        return module
