"""A list of every file of a directory with its size and SHA-256, written last.

A directory that has a manifest was written whole; one whose files answer to their manifest is as
it was written. Storage that flips a bit, a copy that stopped half-way and a file that was deleted
by hand are all found this way, and the message names the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
_CHUNK = 1 << 22


class Damaged(Exception):
    """A directory does not answer to its manifest; the message names the file and the reason."""


def _digest(path: Path, sync: bool) -> str:
    """Return the SHA-256 of a file as hex; `sync` also forces its content to the disk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        if sync:
            os.fsync(file.fileno())
    return digest.hexdigest()


def _seal(files: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def sync_directory(directory: Path) -> None:
    """Force a directory's entries (creations, renames) to the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a kill leaves the old content or the new, never a half."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def write_manifest(directory: Path) -> None:
    """Force every file below `directory` to the disk and list them all in its manifest.

    Raises:
      OSError: a file cannot be read, or the disk is full.
    """
    files: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_dir():
            sync_directory(path)
        elif path.name != MANIFEST:
            name = path.relative_to(directory).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": _digest(path, sync=True)}
    text = json.dumps({"files": files, "seal": _seal(files)}, indent=1)
    write_text_atomically(directory / MANIFEST, text)


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return {relative path: {"bytes", "sha256"}}.

    Raises:
      Damaged: there is no manifest, or it is not as it was written.
    """
    path = directory / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files, seal = content["files"], content["seal"]
    except FileNotFoundError:
        raise Damaged(f"{MANIFEST} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{MANIFEST} cannot be read ({error})") from None
    if seal != _seal(files):
        raise Damaged(f"{MANIFEST} has been changed")
    return files


def verify_manifest(directory: Path) -> None:
    """Compare every file with the manifest.

    Raises:
      Damaged: naming the first file that is missing, has another size, or other bytes.
    """
    for name, entry in read_manifest(directory).items():
        path = directory / name
        try:
            size = path.stat().st_size
            if size != entry["bytes"]:
                raise Damaged(f"{name} has {size} bytes, not {entry['bytes']}")
            if _digest(path, sync=False) != entry["sha256"]:
                raise Damaged(f"{name} has other bytes than were written")
        except FileNotFoundError:
            raise Damaged(f"{name} is missing") from None
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({error})") from None
