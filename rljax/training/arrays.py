"""State as a flat table of named arrays: what goes to Orbax and how it comes back.

Names are the paths of the pytree's leaves, keys joined by dots (`params.layers.0.mlp.up.kernel`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from rljax.training.errors import CheckpointError, CheckpointMismatch


def flatten_arrays(state: Any) -> dict[str, Any]:
    """Return {path: leaf} of a pytree, the path's keys joined by dots.

    Raises:
      CheckpointError: a leaf is not an array, or two leaves have the same path.
    """
    arrays: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "value"
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise CheckpointError(
                f"state.{name} is a {type(leaf).__name__}, not an array: make it an array "
                "or put it into host_state"
            )
        if name in arrays:
            raise CheckpointError(f"two leaves of the state have the path {name}")
        arrays[name] = leaf
    return arrays


def is_key(array: Any) -> bool:
    """Say whether an array (or a ShapeDtypeStruct) holds typed PRNG keys."""
    return jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)


def describe(array: Any) -> dict[str, Any]:
    entry = {"shape": list(array.shape), "dtype": str(array.dtype)}
    if is_key(array):
        entry["impl"] = str(jax.random.key_impl(array))
    return entry


def for_orbax(array: Any) -> Any:
    """Return what Orbax shall store: key data for keys, host memory for arrays on a CPU.

    Orbax copies numpy arrays before its save returns; a jax array on a CPU is handed over as a
    numpy view for that reason, so that the update may donate it right after. One that is shared out
    over devices keeps its shards, which are copied here. Arrays on an accelerator are copied to the
    host by Orbax, before its save returns too.
    """
    if is_key(array):
        array = jax.random.key_data(array)
    if not isinstance(array, jax.Array) or array.is_fully_replicated:
        on_host = not isinstance(array, jax.Array) or _on_cpu(array)
        return np.asarray(array) if on_host else array
    return _copy_shards(array) if _on_cpu(array) else array


def _on_cpu(array: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in array.sharding.device_set)


def _copy_shards(array: jax.Array) -> jax.Array:
    copies = [
        jax.device_put(np.array(shard.data), shard.device) for shard in array.addressable_shards
    ]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, copies)


def compare(path: Path, saved: dict[str, Any], wanted: dict[str, Any], partial: bool) -> None:
    """Raise CheckpointMismatch where the saved arrays are not those wanted."""
    lines = [f"  {name}: not in the checkpoint" for name in wanted if name not in saved]
    if not partial:
        lines += [f"  {name}: only in the checkpoint" for name in saved if name not in wanted]
    for name, array in wanted.items():
        entry = saved.get(name)
        here = (list(array.shape), str(array.dtype))
        if entry is not None and (entry["shape"], entry["dtype"]) != here:
            lines.append(
                f"  {name}: saved {entry['dtype']}{entry['shape']}, here {here[1]}{here[0]}"
            )
    if lines:
        more = [f"  ... and {len(lines) - 20} more"] if len(lines) > 20 else []
        text = "\n".join(lines[:20] + more)
        raise CheckpointMismatch(f"{path} holds another state:\n{text}")


def _sharding(array: Any) -> jax.sharding.Sharding | None:
    """Return where an array is pinned, or None where JAX may place it."""
    if isinstance(array, jax.Array):
        return array.sharding if array.committed else None
    return getattr(array, "sharding", None)


def stored_struct(array: Any, saved: dict[str, Any]) -> jax.ShapeDtypeStruct:
    if is_key(array):
        return jax.eval_shape(lambda: jax.random.key_data(_empty_keys(array.shape, saved)))
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _empty_keys(shape: Sequence[int], saved: dict[str, Any]) -> jax.Array:
    count = math.prod(shape)
    keys = jax.random.split(jax.random.key(0, impl=saved["impl"]), count)
    return keys.reshape(tuple(shape))


def restore_args(array: Any) -> ocp.RestoreArgs:
    """Read pinned arrays straight onto their shards, the others to the host."""
    sharding = _sharding(array)
    if sharding is None or is_key(array):
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(
        restore_type=jax.Array, sharding=sharding, global_shape=array.shape, dtype=array.dtype
    )


def to_leaf(stored: Any, like: Any, saved: dict[str, Any]) -> Any:
    """Turn what Orbax returned into the kind of leaf that `like` is."""
    if is_key(like):
        if stored is None:
            leaf: Any = _empty_keys(like.shape, saved)
        else:
            leaf = jax.random.wrap_key_data(jnp.array(stored), impl=saved["impl"])
    elif stored is None:
        leaf = np.zeros(like.shape, like.dtype)
    else:
        leaf = stored
    if isinstance(like, np.ndarray | np.generic):
        return np.asarray(leaf)
    if isinstance(leaf, np.ndarray):
        leaf = jnp.array(leaf, dtype=like.dtype)
    sharding = _sharding(like)
    return leaf if sharding is None else jax.device_put(leaf, sharding)
