"""Write what a script has measured to a file that the user named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rljax.errors import UserError


def write_json(path: Path, content: Any) -> None:
    """Write JSON, making the folder where there is none. Raises UserError where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}; give --json another place") from error
