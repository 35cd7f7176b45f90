"""What compiles, how often and for how long; compiled programs kept between processes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from rljax.training.errors import ConfigError
from rljax.training.processes import is_first

ENVIRONMENT_VARIABLE = "RLJAX_CACHE_DIR"
_OFF = ("", "0", "off", "none")
_TRACE = "/jax/core/compile/jaxpr_trace_duration"
_BUILD = "/jax/core/compile/backend_compile_duration"
_HIT = "/jax/compilation_cache/cache_hits"


def default_cache_dir() -> Path:
    """Return the user's cache directory for this kind of machine.

    Programs compiled for a CPU use its instruction set; machines that share a home directory but
    not the processor get directories of their own.
    """
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    features = platform.machine() + platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        features += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return Path(root) / "rljax" / "xla" / hashlib.sha256(features.encode()).hexdigest()[:12]


def enable_compilation_cache(
    directory: str | Path | None = None, min_compile_seconds: float = 0.05
) -> Path | None:
    """Keep compiled programs on disk, so that the next process loads instead of compiling them.

    The directory is the first of: the argument; the environment's `RLJAX_CACHE_DIR` (`off` for no
    cache); JAX's own `JAX_COMPILATION_CACHE_DIR`; the user's cache directory.

    Args:
      directory: where to keep them.
      min_compile_seconds: programs that compile faster are not kept. JAX's own 1 s would leave
        out most programs of a CPU.

    Returns:
      The directory, or None where the cache is off.

    Raises:
      ConfigError: the directory cannot be written.
    """
    chosen = directory
    if chosen is None:
        named = os.environ.get(ENVIRONMENT_VARIABLE)
        if named is not None and named.strip().lower() in _OFF:
            jax.config.update("jax_compilation_cache_dir", None)
            compilation_cache.reset_cache()
            return None
        chosen = named or jax.config.jax_compilation_cache_dir or default_cache_dir()
    path = Path(chosen).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"compiled programs cannot be kept in {path}: {error}; set "
            f"{ENVIRONMENT_VARIABLE} to another directory, or to 'off'"
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min_compile_seconds)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # JAX decides at its first compilation whether it has a cache
    return path


class CompileCounter:
    """Counts the programs that XLA builds in this process from now on.

    Attributes:
      count: programs built, by compiling or by loading from the cache. It must stop growing after
        the first training steps: growth means that shapes keep changing.
      cache_hits: those of them that were loaded.
      seconds: time spent on both; tracing is not included.
    """

    def __init__(self) -> None:
        self.count = 0
        self.cache_hits = 0
        self.seconds = 0.0
        self._lock = threading.Lock()
        jax.monitoring.register_event_listener(self._on_event)
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)

    def _on_event(self, event: str, **unused: str | int) -> None:
        if event == _HIT:
            with self._lock:
                self.cache_hits += 1

    def _on_duration(self, event: str, duration: float, **unused: str | int) -> None:
        if event == _BUILD:
            with self._lock:
                self.count += 1
                self.seconds += duration

    def close(self) -> None:
        """Stop counting."""
        jax.monitoring.unregister_event_listener(self._on_event)
        jax.monitoring.unregister_event_duration_listener(self._on_duration)

    def __enter__(self) -> CompileCounter:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def give_back_memory() -> None:
    """Give memory that was freed back to the system, where the C library (glibc) would keep it.

    A compiler frees hundreds of megabytes in small pieces; they would stand beside what the
    program needs when it runs.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class _Watch:
    """Notes when this thread begins to trace and when its last program is built."""

    def __init__(self, name: str, patience: float) -> None:
        self.name, self.patience = name, patience
        self.thread = threading.get_ident()
        self.start: float | None = None
        self.end = 0.0
        self.timer: threading.Timer | None = None

    def on_scalar(self, event: str, value: float | int, **unused: str | int) -> None:
        if event == _TRACE and self.start is None and threading.get_ident() == self.thread:
            self.start = time.perf_counter()
            self.timer = threading.Timer(self.patience, self.say, [f"compiling {self.name} ..."])
            self.timer.daemon = True
            self.timer.start()

    def on_duration(self, event: str, duration: float, **unused: str | int) -> None:
        if event == _BUILD and threading.get_ident() == self.thread:
            self.end = time.perf_counter()
            if duration >= self.patience:
                give_back_memory()

    def say(self, text: str) -> None:
        if is_first():
            print(text, file=sys.stderr, flush=True)


@contextmanager
def announce(name: str, patience: float = 0.5) -> Iterator[None]:
    """Say on stderr what is being compiled in this block, and how long it took.

    Nothing is said where nothing compiles, or where it takes less than `patience` seconds, so it
    may stand around every call of a compiled function. The time runs from the first tracing to
    the end of the last build; the first execution is not in it.

    Usage:
      with announce("update"):
          state, metrics = update(state, rollout, key)
    """
    watch = _Watch(name, patience)
    with CompileCounter() as counter:
        jax.monitoring.register_scalar_listener(watch.on_scalar)
        jax.monitoring.register_event_duration_secs_listener(watch.on_duration)
        try:
            yield
        finally:
            jax.monitoring.unregister_scalar_listener(watch.on_scalar)
            jax.monitoring.unregister_event_duration_listener(watch.on_duration)
            if watch.timer is not None:
                watch.timer.cancel()
    if counter.count and watch.start is not None and watch.end - watch.start >= patience:
        programs = "1 program" if counter.count == 1 else f"{counter.count} programs"
        loaded = f", {counter.cache_hits} from the cache" if counter.cache_hits else ""
        watch.say(f"compiled {name} in {watch.end - watch.start:.1f} s ({programs}{loaded})")
