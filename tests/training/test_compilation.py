"""Compilation: counted, announced, and kept between processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import rljax
from rljax.training import compilation
from rljax.training.compilation import CompileCounter, announce, enable_compilation_cache
from rljax.training.errors import ConfigError


def test_counts_programs_and_stops_when_shapes_do():
    x, y = jnp.ones(3), jnp.ones(4)
    function = jax.jit(lambda v: jnp.tanh(v) * 1.2345)
    with CompileCounter() as counter:
        function(x)
        once = counter.count
        function(x)
        assert (once, counter.count) == (1, 1)
        function(y)
        assert counter.count == 2 and counter.seconds > 0
    function(jnp.ones(5))
    assert counter.count == 2


def test_says_what_is_compiled_and_how_long_it_took(capsys):
    @jax.jit
    def slow(x):
        time.sleep(0.2)  # stands for tracing a large model
        return x * 3

    x = jnp.ones(7)
    with announce("update", patience=0.05):
        slow(x)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "compiling update ..."
    assert lines[1].startswith("compiled update in 0.") and lines[1].endswith("(1 program)")
    seconds = float(lines[1].split()[3])
    assert 0.2 <= seconds < 5
    with announce("update", patience=0.05):
        slow(x)
        time.sleep(0.1)
    with announce("quick", patience=30):
        jax.jit(lambda v: v + 2.5)(x)
    assert capsys.readouterr().err == ""


def test_an_error_in_the_block_ends_the_announcement(capsys):
    @jax.jit
    def fails(x):
        raise ValueError("shape")

    x = jnp.ones(2)
    with pytest.raises(ValueError, match="shape"), announce("update", patience=0.5):
        fails(x)
    time.sleep(0.7)
    assert capsys.readouterr().err == ""


SCRIPT = """
import jax, jax.numpy as jnp
from rljax.training.compilation import CompileCounter, enable_compilation_cache
jnp.ones(3) + 1  # something compiles before the cache is switched on
print(enable_compilation_cache(min_compile_seconds=0.0))
with CompileCounter() as counter:
    x = jax.jit(lambda v: jnp.sin(v @ v.T).sum())(jnp.ones((8, 8)))
print(counter.count, counter.cache_hits, float(x))
"""


def run_script(cache: str, **more: str) -> list[str]:
    environment = os.environ | {
        "RLJAX_CACHE_DIR": cache,
        "PYTHONPATH": str(Path(rljax.__file__).parents[1]),
    }
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment | more,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.splitlines()


def test_the_next_process_loads_what_this_one_compiled(tmp_path):
    first = run_script(str(tmp_path / "cache"))
    again = run_script(str(tmp_path / "cache"))
    assert first[0] == again[0] == str(tmp_path / "cache")
    count, hits, value = first[1].split()
    assert int(count) >= 1 and int(hits) == 0
    assert again[1].split() == [count, count, value]


def test_the_cache_can_be_switched_off(tmp_path):
    lines = run_script("off", HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert lines[0] == "None" and lines[1].split()[1] == "0"
    assert not list(tmp_path.iterdir())


@pytest.fixture
def jax_settings():
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation.compilation_cache.reset_cache()


def test_where_the_cache_is(tmp_path, monkeypatch, jax_settings):
    monkeypatch.delenv("RLJAX_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    jax.config.update("jax_compilation_cache_dir", None)
    default = enable_compilation_cache()
    assert default.parent == tmp_path / "xdg" / "rljax" / "xla" and default.is_dir()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    assert enable_compilation_cache() == tmp_path / "jax"
    monkeypatch.setenv("RLJAX_CACHE_DIR", str(tmp_path / "env"))
    assert enable_compilation_cache() == tmp_path / "env"
    assert enable_compilation_cache(tmp_path / "argument") == tmp_path / "argument"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "argument")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="RLJAX_CACHE_DIR"):
        enable_compilation_cache(tmp_path / "file" / "cache")
