"""Checkpoints: exact round trips, donation, keeping, damage, full disks."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rljax
from rljax.training.checkpoint import Checkpoints
from rljax.training.errors import CheckpointError, CheckpointMismatch


class State(NamedTuple):
    params: dict
    optimizer: optax.OptState
    key: jax.Array
    count: jax.Array


def make_state(seed: int, size: int = 64) -> State:
    key = jax.random.key(seed)
    params = {
        "kernel": jax.random.normal(key, (size, 3)),
        "half": jax.random.normal(key, (5,)).astype(jnp.bfloat16),
        "empty": jnp.zeros((0, 4)),
        "host": np.arange(4, dtype=np.int64) + seed,
    }
    optimizer = optax.adamw(1e-3).init({"kernel": params["kernel"]})
    return State(params, optimizer, jax.random.split(key, 3), jnp.int32(seed))


def assert_equal(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert type(a) is type(b) and a.shape == b.shape and a.dtype == b.dtype
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_round_trip_is_exact(tmp_path):
    host = {"position": 7, "kl": {"coef": 0.1 + 0.2}, "best": -float("inf"), "np": np.float32(0.7)}
    state = make_state(5)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(like=state) is None
        checkpoints.save(3, state, host, score=0.5)
    with Checkpoints(tmp_path) as checkpoints:
        step, restored, restored_host = checkpoints.restore(like=make_state(0))
    assert step == 3
    assert_equal(restored, state)
    assert restored_host == host | {"np": float(np.float32(0.7))}
    assert jax.random.key_impl(restored.key) == jax.random.key_impl(state.key)


def test_restores_from_abstract_shapes_and_keeps_arrays_uncommitted(tmp_path):
    state = {"x": jnp.arange(6.0), "key": jax.random.split(jax.random.key(4), 3)}
    device = jax.devices()[0]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, state)
        _, free, _ = checkpoints.restore(like=jax.eval_shape(lambda: state))
        _, pinned, _ = checkpoints.restore(like=jax.device_put(state, device))
    assert_equal(free, state)
    assert_equal(pinned, state)
    assert not free["x"].committed and not free["key"].committed
    assert pinned["x"].committed and pinned["key"].committed


def test_partial_restore_reads_only_what_is_named(tmp_path):
    state = make_state(1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        like = {"params": {"kernel": state.params["kernel"]}}
        _, restored, _ = checkpoints.restore(like=like, partial=True)
        np.testing.assert_array_equal(restored["params"]["kernel"], state.params["kernel"])
        with pytest.raises(CheckpointMismatch, match="optimizer.0.count: only in the checkpoint"):
            checkpoints.restore(like=like)


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path):
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 7, tree), donate_argnums=0)
    rng = np.random.default_rng(0)
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(4):
            expected = {str(i): rng.standard_normal(300_000, np.float32) for i in range(8)}
            state = jax.block_until_ready(jax.tree.map(jnp.array, expected))
            checkpoints.save(step, state)
            overwritten = jax.block_until_ready(update(state))
            assert state["0"].is_deleted()
            _, restored, _ = checkpoints.restore(like=overwritten)
            jax.tree.map(np.testing.assert_array_equal, restored, expected)


def test_numpy_arrays_may_change_as_soon_as_save_returns(tmp_path):
    state = {"x": np.ones(500_000)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, state)
        state["x"][:] = 2
        _, restored, _ = checkpoints.restore(like=state)
    assert restored["x"].min() == restored["x"].max() == 1


def test_a_restored_state_can_be_donated(tmp_path):
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, {"x": jnp.zeros(1000)})
        _, restored, _ = checkpoints.restore(like={"x": jnp.zeros(1000)})
        once = update(restored)
        _, again, _ = checkpoints.restore(like={"x": jnp.zeros(1000)})
    np.testing.assert_array_equal(once["x"], np.ones(1000))
    np.testing.assert_array_equal(again["x"], np.zeros(1000))


def test_keeps_the_last_and_the_best(tmp_path):
    scores = [0.1, 0.9, 0.9, float("nan"), 0.2, None]
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        for step, score in enumerate(scores):
            checkpoints.save(step, {"x": jnp.full(3, step)}, score=score)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 4, 5]
        assert checkpoints.best_step() == 1
        _, restored, _ = checkpoints.restore(like={"x": jnp.zeros(3, jnp.int32)}, step=1)
        assert restored["x"][0] == 1
    with Checkpoints(tmp_path, keep_last=1, keep_best=False) as checkpoints:
        checkpoints.save(6, {"x": jnp.full(3, 6)})
        checkpoints.wait()
        assert checkpoints.steps() == [6]
    assert [path.name for path in tmp_path.iterdir()] == ["00000006"]


def test_another_state_is_refused_with_the_difference(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, {"a": jnp.zeros(3), "b": jnp.zeros((2, 2)), "c": jnp.zeros(1)})
        like = {"a": jnp.zeros(4), "b": jnp.zeros((2, 2), jnp.int32), "d": jnp.zeros(1)}
        with pytest.raises(CheckpointMismatch) as error:
            checkpoints.restore(like=like)
        for part in (
            "a: saved float32[3], here float32[4]",
            "b: saved float32[2, 2], here int32[2, 2]",
            "c: only in the checkpoint",
            "d: not in the checkpoint",
        ):
            assert part in str(error.value)
        assert checkpoints.steps() == [0]


def test_what_cannot_be_saved_is_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match="state.a.rate is a float"):
            checkpoints.save(0, {"a": {"rate": 0.1}})
        with pytest.raises(CheckpointError, match="host_state cannot be saved: set"):
            checkpoints.save(0, {"a": jnp.zeros(1)}, {"seen": {1, 2}})
        with pytest.raises(CheckpointError, match="step is -1"):
            checkpoints.save(-1, {"a": jnp.zeros(1)})
    with pytest.raises(CheckpointError, match="keep_last is 0"):
        Checkpoints(tmp_path, keep_last=0)


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    with Checkpoints(directory) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"x": jnp.full(20_000, step)}, {"step": step})
    return directory


@pytest.mark.parametrize("kind", ["missing", "truncated", "flipped"])
def test_any_damaged_file_falls_back_and_says_so(tmp_path, two_checkpoints, kind, capsys):
    like = {"x": jnp.zeros(20_000, jnp.int32)}
    files = [path for path in (two_checkpoints / "00000002").rglob("*") if path.is_file()]
    files = [path.relative_to(two_checkpoints) for path in files if path.stat().st_size]
    assert len(files) >= 6
    for number, name in enumerate(files):
        copy = tmp_path / str(number)
        shutil.copytree(two_checkpoints, copy)
        damage(copy / name, kind)
        with Checkpoints(copy) as checkpoints:
            step, restored, host = checkpoints.restore(like=like)
            message = capsys.readouterr().err
            assert (step, host, int(restored["x"][0])) == (1, {"step": 1}, 1), name
            assert str(copy / "00000002") in message and name.name in message
            assert "going back to step 1" in message
            checkpoints.save(2, {"x": jnp.full(20_000, 22)})
            checkpoints.wait()
            assert checkpoints.steps() == [1, 2]
            assert checkpoints.restore(like=like)[1]["x"][0] == 22
        shutil.rmtree(copy)


def test_a_reader_leaves_a_damaged_checkpoint_where_it_is(tmp_path, two_checkpoints, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(two_checkpoints, copy)
    (copy / "saving-00000003").mkdir()
    damage(copy / "00000002" / "host.json", "truncated")
    with Checkpoints(copy, read_only=True) as checkpoints:
        assert checkpoints.restore(like={"x": jnp.zeros(20_000, jnp.int32)})[0] == 1
        with pytest.raises(CheckpointError, match="read-only"):
            checkpoints.save(3, {"x": jnp.zeros(1)})
        with pytest.raises(CheckpointError, match="00000002 is damaged: host.json has"):
            checkpoints.restore(like={"x": jnp.zeros(20_000, jnp.int32)}, step=2)
    assert (copy / "00000002").is_dir() and (copy / "saving-00000003").is_dir()
    assert "host.json" in capsys.readouterr().err


def test_all_damaged_stops_instead_of_starting_anew(tmp_path, two_checkpoints):
    copy = tmp_path / "copy"
    shutil.copytree(two_checkpoints, copy)
    for step in (1, 2):
        damage(copy / f"0000000{step}" / "host.json", "flipped")
    for _ in range(2):
        with Checkpoints(copy) as checkpoints, pytest.raises(CheckpointError, match="every"):
            checkpoints.restore(like={"x": jnp.zeros(20_000, jnp.int32)})


def test_leftovers_of_a_killed_process_are_tidied_up(tmp_path, two_checkpoints):
    copy = tmp_path / "copy"
    shutil.copytree(two_checkpoints, copy)
    (copy / "saving-00000004" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    (copy / "deleting-00000000").mkdir()
    (copy / "replaced-00000001").mkdir()
    (copy / "notes").mkdir()
    (copy / "00000002").rename(copy / "saving-00000002")  # complete, only the name was lacking
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.restore(like={"x": jnp.zeros(20_000, jnp.int32)})[0] == 2
    assert sorted(path.name for path in copy.iterdir()) == ["00000001", "00000002", "notes"]


def test_a_replaced_checkpoint_returns_when_its_successor_was_not_finished(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)})
    (tmp_path / "00000001").rename(tmp_path / "replaced-00000001")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="choose another --workdir"):
        Checkpoints(tmp_path / "file" / "checkpoints")


def test_a_full_disk_is_a_clear_error_and_keeps_the_earlier_one(tmp_path, capfd):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(10)})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        try:
            checkpoints.save(2, {"x": jax.random.normal(jax.random.key(0), (1_000_000,))})
            with pytest.raises(CheckpointError, match="step 2 could not be saved") as error:
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "the checkpoint of step 1 is intact" in str(error.value)
        assert str(tmp_path) in str(error.value)
        assert "Traceback" not in capfd.readouterr().err
        checkpoints.save(2, {"x": jnp.ones(10)})
        assert checkpoints.restore(like={"x": jnp.zeros(10)})[0] == 2


def test_files_are_plain_json_beside_orbax(two_checkpoints):
    content = json.loads((two_checkpoints / "00000002" / "host.json").read_text())
    assert content["arrays"] == {"x": {"shape": [20000], "dtype": "int32"}}
    names = sorted(path.name for path in (two_checkpoints / "00000002").iterdir())
    assert names == ["host.json", "manifest.json", "state"]


EXIT = """
import sys
import jax.numpy as jnp
from rljax.training.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, {"x": jnp.arange(3_000_000)})
if sys.argv[2] == "raise":
    raise SystemExit(3)
"""


@pytest.mark.parametrize("end", ["return", "raise"])
def test_a_script_that_ends_without_closing_still_saves(tmp_path, end):
    environment = os.environ | {"PYTHONPATH": str(Path(rljax.__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", EXIT, str(tmp_path), end],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == (3 if end == "raise" else 0) and result.stderr == ""
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(like={"x": jnp.zeros(3_000_000, jnp.int32)})[0] == 1


def test_the_arrays_of_a_checkpoint_can_be_listed(two_checkpoints, tmp_path):
    with Checkpoints(two_checkpoints, read_only=True) as checkpoints:
        assert checkpoints.arrays(2) == {"x": {"shape": [20000], "dtype": "int32"}}
        with pytest.raises(CheckpointError, match="00000009 cannot be read"):
            checkpoints.arrays(9)
