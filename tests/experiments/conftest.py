"""One tiny run of experiments/ppo.py, and the scripts as modules."""

import contextlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax
import pytest

import rljax

ROOT = Path(rljax.__file__).parents[1]
REWARD = """
def score(prompts, completions):
    return [sum(char in "aeiou etn" for char in text) / 8 - 1 for text in completions]
"""


class TinyRun(NamedTuple):
    """A finished run of 2 steps, both of them saved, and its files."""

    directory: Path
    prompts: Path
    reward: str


def _load(name: str) -> ModuleType:
    path = ROOT / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Keep compiled programs apart from the user's, shared by the scripts of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLJAX_CACHE_DIR", str(tmp_path_factory.mktemp("xla")))
        yield


@contextlib.contextmanager
def unoptimised() -> Iterator[None]:
    """Compile without optimisation: programs that run a few times on tiny arrays."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def quick_programs(cache):
    """Compile what a module's tests run without optimisation."""
    with unoptimised():
        yield


@pytest.fixture(scope="session")
def script():
    """Return a function that gives a script's module, loaded once."""
    modules: dict[str, ModuleType] = {}

    def get(name: str) -> ModuleType:
        if name not in modules:
            modules[name] = _load(name)
        return modules[name]

    return get


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, script, cache) -> TinyRun:
    folder = tmp_path_factory.mktemp("tiny")
    prompts = [{"prompt": f"{i:02d} is a prompt"} for i in range(60)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (folder / "reward.py").write_text(REWARD)
    run = TinyRun(folder / "run", folder / "prompts.jsonl", f"{folder}/reward.py:score")
    flags = {
        "config": f"{ROOT}/configs/ppo_sentiment.py:smoke",
        "workdir": run.directory,
        "task.prompts": run.prompts,
        "task.reward": run.reward,
        "task.prompt-tokens": 8,
        "task.min-prompt-tokens": 4,
        "task.held-out-fraction": 0.3,
        "sampling.max-new-tokens": 8,
        "steps": 2,
        "checkpoint-every": 1,
        "eval-prompts": 10,
        "optimizer.learning-rate": 0.01,
    }
    with unoptimised():
        script("ppo").main([part for k, v in flags.items() for part in (f"--{k}", str(v))])
    return run


@pytest.fixture
def fails(script, capsys):
    """Return a function that runs a script which must stop, and returns what it says."""

    def run(name: str, *argv: object) -> str:
        with pytest.raises(SystemExit) as stop:
            script(name).main([str(part) for part in argv])
        assert stop.value.code in (1, 2)
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return message

    return run
