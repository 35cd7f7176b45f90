"""State that is spread over devices comes back where it is asked for."""

import os
import subprocess
import sys
from pathlib import Path

import rljax

SCRIPT = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from rljax.training.checkpoint import Checkpoints

devices = np.asarray(jax.devices())
assert len(devices) == 4
two, four = jax.sharding.Mesh(devices[:2], "d"), jax.sharding.Mesh(devices, "d")
x = np.arange(64.0, dtype=np.float32).reshape(8, 8)
state = {
    "split": jax.device_put(x, NamedSharding(two, P("d"))),
    "everywhere": jax.device_put(x + 1, NamedSharding(two, P())),
    "keys": jax.device_put(jax.random.split(jax.random.key(3), 4), NamedSharding(two, P())),
    "free": jnp.int32(7),
}
like = {
    "split": jax.device_put(x * 0, NamedSharding(four, P(None, "d"))),
    "everywhere": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(four, P())),
    "keys": jax.device_put(jax.random.split(jax.random.key(0), 4), NamedSharding(four, P())),
    "free": jnp.int32(0),
}
update = jax.jit(lambda tree: {**tree, "split": tree["split"] * 2}, donate_argnums=0)
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, state)
    jax.block_until_ready(update(state | {"free": state["free"] + 0}))
    _, restored, _ = checkpoints.restore(like=like)
np.testing.assert_array_equal(restored["split"], x)
np.testing.assert_array_equal(restored["everywhere"], x + 1)
expected = jax.random.key_data(jax.random.split(jax.random.key(3), 4))
np.testing.assert_array_equal(jax.random.key_data(restored["keys"]), expected)
for name in ("split", "everywhere", "keys"):
    assert restored[name].sharding == like[name].sharding, name
assert restored["free"] == 7 and not restored["free"].committed
total = jax.jit(lambda tree: tree["split"].sum() + tree["free"])(restored)  # devices agree
assert total == x.sum() + 7
print("ok")
"""


def test_shardings_change_between_save_and_restore(tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(rljax.__file__).parents[1]),
    }
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and result.stdout == "ok\n", result.stderr
