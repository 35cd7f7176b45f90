"""Whole-state checkpoints: asynchronous, atomic, verified, the last few and the best.

A checkpoint is a directory `NNNNNNNN` (the step) with three things in it:

    state/         the arrays, written by Orbax (OCDBT), named by their path in the pytree
    host.json      everything that is not an array: step, score, the caller's host state
    manifest.json  every file with its size and SHA-256, written last

It is written as `saving-NNNNNNNN` and renamed when its manifest is on the disk, so a kill at any
moment leaves the earlier checkpoints as they were and either a whole new one or none. `restore`
verifies the manifest; a damaged checkpoint is named on stderr, renamed to `damaged-NNNNNNNN`, and
the one before it is taken.

Of several processes each writes its shards, the first one all else; they see one file system.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from rljax.training import processes
from rljax.training.arrays import (
    compare,
    describe,
    flatten_arrays,
    for_orbax,
    restore_args,
    stored_struct,
    to_leaf,
)
from rljax.training.errors import CheckpointError
from rljax.training.manifest import (
    Damaged,
    read_manifest,
    sync_directory,
    verify_manifest,
    write_manifest,
    write_text_atomically,
)

_SAVING, _REPLACED, _DELETING, _DAMAGED = "saving-", "replaced-", "deleting-", "damaged-"


def _is_news(record: logging.LogRecord) -> bool:
    """Drop the tracebacks that Orbax logs of errors which it raises too, and we report."""
    repeated = record.filename in ("async_checkpointer.py", "future.py")
    return not (repeated and "orbax" in record.pathname and record.levelno >= logging.ERROR)


logging.getLogger("absl").addFilter(_is_news)


def _json_default(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} does not fit into JSON")


class Checkpoints:
    """The checkpoints of one directory.

    Usage:
      with Checkpoints(run.checkpoint_dir) as checkpoints:
          restored = checkpoints.restore(like=state)      # None in a new directory
          checkpoints.save(step, state, {"position": 7}, score=0.3)

    Only inside `with` does a save go on in the background: nothing could finish it once the
    interpreter has begun to end.

    Args:
      directory: made if it is not there.
      keep_last: how many of the newest checkpoints stay, at least 1.
      keep_best: whether the checkpoint with the highest score stays as well (the older of equals;
        NaN is never the best).
      read_only: look, but neither write nor tidy up: for readers of a run that may be training.

    Raises:
      CheckpointError: the directory cannot be made or written, or a setting is impossible.
    """

    def __init__(
        self,
        directory: str | Path,
        keep_last: int = 2,
        keep_best: bool = True,
        read_only: bool = False,
    ) -> None:
        if keep_last < 1:
            raise CheckpointError(f"keep_last is {keep_last}: at least one checkpoint has to stay")
        self.directory = Path(directory).absolute()
        self.keep_last, self.keep_best, self.read_only = keep_last, keep_best, read_only
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_compression=False)
        self._orbax = ocp.AsyncCheckpointer(handler)
        self._managed = False
        if not read_only:
            try:
                if processes.is_first():
                    self.directory.mkdir(parents=True, exist_ok=True)
                    self._recover()
            except OSError as error:
                raise CheckpointError(
                    f"checkpoints cannot be written to {self.directory}: {error}; "
                    "choose another --workdir"
                ) from error

    # What is there.

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        names = (path.name for path in self.directory.iterdir())
        return sorted(int(name) for name in names if name.isdecimal())

    def best_step(self) -> int | None:
        """Return the step with the highest score, or None where no checkpoint has a score."""
        scores = {step: self._score(step) for step in self.steps()}
        known = {step: score for step, score in scores.items() if score is not None}
        return max(known, key=lambda step: (known[step], -step)) if known else None

    def arrays(self, step: int) -> dict[str, dict[str, Any]]:
        """Return {path: {"shape", "dtype"}} of the arrays in a checkpoint.

        Raises:
          CheckpointError: there is no such checkpoint, or it is damaged.
        """
        path = self._path(step)
        try:
            read_manifest(path)
            return json.loads((path / "host.json").read_text(encoding="utf-8"))["arrays"]
        except (Damaged, OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from None

    def _path(self, step: int, prefix: str = "") -> Path:
        return self.directory / f"{prefix}{step:08d}"

    def _score(self, step: int) -> float | None:
        try:
            score = json.loads((self._path(step) / "host.json").read_text("utf-8"))["score"]
        except (OSError, ValueError, KeyError):
            return None  # damaged: restore will say so
        return None if score is None or math.isnan(score) else float(score)

    # Saving.

    def save(
        self,
        step: int,
        state: Any,
        host_state: dict[str, Any] | None = None,
        score: float | None = None,
    ) -> None:
        """Save in the background (inside `with`); return when the arrays have been copied.

        The arrays of `state` may be donated or changed as soon as this returns. A save that is
        still under way is waited for first. A checkpoint of the same step is replaced.

        Args:
          step: number of training steps done, >= 0.
          state: pytree of arrays; typed PRNG keys are welcome.
          host_state: what JSON can hold; floats come back bit for bit, tuples as lists.
          score: what `keep_best` compares; None does not take part.

        Raises:
          CheckpointError: this save or the one before it failed, with the reason.
        """
        if self.read_only:
            raise CheckpointError(f"{self.directory} was opened read-only")
        if step < 0:
            raise CheckpointError(f"step is {step}: steps are counted from 0")
        self.wait()
        arrays = flatten_arrays(state)
        content = {
            "step": int(step),
            "score": None if score is None else float(score),
            "arrays": {name: describe(array) for name, array in arrays.items()},
            "host_state": host_state or {},
        }
        try:
            text = json.dumps(content, indent=1, default=_json_default)
        except TypeError as error:
            raise CheckpointError(f"host_state cannot be saved: {error}") from error
        stored = {name: for_orbax(array) for name, array in arrays.items() if array.size}
        saving = self._path(step, _SAVING)
        try:
            if processes.is_first():
                shutil.rmtree(saving, ignore_errors=True)
                saving.mkdir()
                write_text_atomically(saving / "host.json", text)
            processes.wait_for_all(f"saving {step}")
            self._orbax.save(saving / "state", args=ocp.args.PyTreeSave(stored))
        except Exception as error:
            raise self._save_error(step, error) from error
        self._thread = threading.Thread(
            target=self._finish, args=(step,), name="checkpoint", daemon=False
        )
        self._thread.start()
        if not self._managed:
            self.wait()

    def wait(self) -> None:
        """Wait for the save that is under way.

        Raises:
          CheckpointError: it failed, with the reason.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def close(self) -> None:
        """Wait for the save that is under way and end Orbax's threads."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def __enter__(self) -> Checkpoints:
        self._managed = True
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _finish(self, step: int) -> None:
        """Wait for Orbax, write the manifest, give the directory its name, delete the old ones."""
        try:
            self._orbax.wait_until_finished()
            if processes.is_first():
                write_manifest(self._path(step, _SAVING))
                self._publish(step)
                self._prune()
        except Exception as error:
            self._failure = self._save_error(step, error)
            self._failure.__cause__ = error

    def _save_error(self, step: int, error: Exception) -> CheckpointError:
        kept = self.steps()
        rest = f"the checkpoint of step {kept[-1]} is intact" if kept else "no earlier one exists"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        return CheckpointError(
            f"the checkpoint of step {step} could not be saved in {self.directory}: {reason}; "
            f"{rest}. Look at the disk's free space and permissions, then start again to resume"
        )

    def _publish(self, step: int) -> None:
        saving, final = self._path(step, _SAVING), self._path(step)
        replaced = self._path(step, _REPLACED)
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        saving.rename(final)
        sync_directory(self.directory)
        shutil.rmtree(replaced, ignore_errors=True)

    def _prune(self) -> None:
        steps = self.steps()
        kept = set(steps[-self.keep_last :])
        if self.keep_best and (best := self.best_step()) is not None:
            kept.add(best)
        for step in set(steps) - kept:
            self._delete(self._path(step))

    def _delete(self, path: Path) -> None:
        """Delete a directory so that a kill half-way does not leave what looks like a whole one."""
        gone = path.with_name(f"{_DELETING}{path.name}")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone)

    def _recover(self) -> None:
        """Tidy up what a killed process left: finish a save that only lacked its name."""
        for saving in self.directory.glob(f"{_SAVING}*"):
            suffix = saving.name.removeprefix(_SAVING)
            try:
                read_manifest(saving)
            except Damaged:
                shutil.rmtree(saving)
                continue
            if suffix.isdecimal():
                self._publish(int(suffix))
        for replaced in self.directory.glob(f"{_REPLACED}*"):
            final = self.directory / replaced.name.removeprefix(_REPLACED)
            if final.exists():
                shutil.rmtree(replaced)
            else:
                replaced.rename(final)
        for gone in self.directory.glob(f"{_DELETING}*"):
            shutil.rmtree(gone)

    # Restoring.

    def restore(
        self, like: Any, step: int | None = None, partial: bool = False
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Return (step, state, host_state) of the newest sound checkpoint, None if there is none.

        Args:
          like: pytree of arrays or ShapeDtypeStructs: structure, shapes, dtypes and shardings of
            the state to return. Arrays that were not committed to a device are not afterwards.
          step: this checkpoint and no other, e.g. `best_step()`.
          partial: `like` may name fewer arrays than the checkpoint holds, e.g. only the policy.

        Raises:
          CheckpointMismatch: names, shapes or dtypes differ; the message lists them.
          CheckpointError: `step` is not there or damaged, or every checkpoint is damaged.
        """
        self.wait()
        processes.wait_for_all("restoring")
        if step is not None:
            try:
                return self._read(step, like, partial)
            except Damaged as error:
                raise CheckpointError(f"{self._path(step)} is damaged: {error}") from None
        damaged: dict[int, str] = {}
        while left := [known for known in self.steps() if known not in damaged]:
            try:
                result = self._read(left[-1], like, partial)
            except Damaged as error:
                damaged[left[-1]] = str(error)
                continue
            for bad, reason in damaged.items():
                self._set_aside(bad, reason, left[-1])
            return result
        if damaged:
            reasons = "; ".join(f"step {bad}: {reason}" for bad, reason in damaged.items())
            raise CheckpointError(
                f"every checkpoint in {self.directory} is damaged ({reasons}). "
                "Delete the directory to start from the beginning"
            )
        return None

    def _set_aside(self, step: int, reason: str, taken: int) -> None:
        message = f"rljax: checkpoint {self._path(step)} is damaged: {reason}; "
        if not self.read_only and processes.is_first() and self._path(step).exists():
            aside = self._path(step, _DAMAGED)
            shutil.rmtree(aside, ignore_errors=True)
            self._path(step).rename(aside)
            message += f"renamed to {aside.name}; "
        print(f"{message}going back to step {taken}", file=sys.stderr, flush=True)

    def _read(self, step: int, like: Any, partial: bool) -> tuple[int, Any, dict[str, Any]]:
        path = self._path(step)
        if not path.is_dir():
            raise CheckpointError(
                f"there is no checkpoint of step {step} in {self.directory}; "
                f"there are: {self.steps()}"
            )
        verify_manifest(path)
        content = json.loads((path / "host.json").read_text(encoding="utf-8"))
        wanted = flatten_arrays(like)
        compare(path, content["arrays"], wanted, partial)
        arrays = self._read_arrays(path / "state", content["arrays"], wanted)
        leaves = [arrays[name] for name in wanted]
        state = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), leaves)
        return content["step"], state, content["host_state"]

    def _read_arrays(
        self, path: Path, saved: dict[str, Any], wanted: dict[str, Any]
    ) -> dict[str, Any]:
        structs = {
            name: stored_struct(array, saved[name])
            for name, array in wanted.items()
            if 0 not in array.shape
        }
        placement = {name: restore_args(wanted[name]) for name in structs}
        stored: dict[str, Any] = {}
        if structs:
            args = ocp.args.PyTreeRestore(
                item=structs, restore_args=placement, partial_restore=True
            )
            try:
                stored = self._orbax.restore(path, args=args)
            except (ValueError, OSError, KeyError) as error:
                raise Damaged(f"Orbax cannot read it ({error})") from error
        return {
            name: to_leaf(stored.pop(name, None), array, saved[name])
            for name, array in wanted.items()
        }
