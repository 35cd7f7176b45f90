"""One run in several processes: all compute, the first one judges, writes and speaks.

Every process runs the same program on its share of the mesh. What is decided on the host (where a
run stands, what a completion is worth, whether to stop) is decided by the first process and sent to
the others, so that all go the same way. With one process all of this is nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rljax.errors import UserError
from rljax.training.errors import ConfigError


def start(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout_s: int
) -> None:
    """Join the other processes of a run; before anything has been computed.

    With None for the first three JAX finds them: SLURM, Kubernetes, Open MPI, TPU pods.
    timeout_s: without a sign of life for so long a process is given up, and the others end. All but
    the first process print nothing but errors from here on. Raises ConfigError where the others
    cannot be found.
    """
    if jax.distributed.is_initialized():  # an earlier script of this process
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
            initialization_timeout=max(timeout_s, 60),
            heartbeat_timeout_seconds=timeout_s,
            shutdown_timeout_seconds=timeout_s,
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the processes of this run do not find each other: {error}; --mesh.distributed looks "
            "for SLURM, Kubernetes, Open MPI or a TPU pod; elsewhere give --mesh.coordinator "
            "HOST:PORT --mesh.num-processes N --mesh.process-id 0 to N - 1"
        ) from error
    if not is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for good


def count() -> int:
    """Return the number of processes."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Say whether this process is the one that judges, writes and speaks."""
    return count() == 1 or jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Wait until every process has come to the point of this name."""
    if count() > 1:
        multihost_utils.sync_global_devices(name)


def any_of(flag: bool) -> bool:
    """Say whether the flag is set in any process."""
    if count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def first_decides(decide: Callable[[], Any]) -> Any:
    """Call a function in the first process, and return there and elsewhere what JSON makes of it.

    With one process: decide() itself. Raises what it raises; in the other processes UserError.
    """
    if count() == 1:
        return decide()
    failure: Exception | None = None
    message = ""
    if is_first():
        try:
            message = json.dumps({"value": decide()})
        except Exception as error:
            failure = error
            message = json.dumps({"error": f"{type(error).__name__}: {error}"})
    content = message.encode()
    content += b" " * ((1 << max(12, (len(content) - 1).bit_length())) - len(content))
    sent = np.frombuffer(content, np.uint8)  # of few lengths: each is compiled once
    size = int(multihost_utils.broadcast_one_to_all(np.int32(sent.size)))
    text = multihost_utils.broadcast_one_to_all(sent if is_first() else np.zeros(size, np.uint8))
    if failure is not None:
        raise failure
    answer = json.loads(np.asarray(text, np.uint8).tobytes().decode())
    if "error" in answer:
        raise UserError(f"the first process stopped: {answer['error']}")
    return answer["value"]


def to_host(tree: Any) -> Any:
    """Give every process the whole of arrays that are spread over several; with one: as it is."""
    return tree if count() == 1 else multihost_utils.process_allgather(tree, tiled=True)
