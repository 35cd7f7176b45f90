"""Command lines: defaults from a config file, flags over them, and errors that help."""

import dataclasses
import textwrap
from typing import Literal

import pytest

from rljax.training import flags
from rljax.training.errors import CheckpointError, ConfigError


@dataclasses.dataclass(frozen=True)
class Inner:
    """The algorithm."""

    clip_eps: float = 0.2
    """How far the ratio may move from 1."""
    whiten: bool = True
    """Whether advantages are whitened."""
    kind: Literal["k1", "k3"] = "k1"
    """KL estimator."""
    reward_range: tuple[float, float] | None = None
    """Scores are cut to this range."""
    stop_ids: tuple[int, ...] = (1, 2)
    """Token ids that end a completion."""

    def validate(self) -> None:
        if self.clip_eps <= 0:
            raise ValueError(f"clip_eps is {self.clip_eps}, not above 0")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All of a run."""

    ppo: Inner = Inner()
    steps: int = 10
    """Training steps."""
    workdir: str | None = None
    """The run directory."""

    def validate(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}: at least 1")


CONFIG = """
    import dataclasses
    from tests_flags_types import Experiment, Inner

    config = Experiment(ppo=Inner(clip_eps=0.3), steps=20)
    variants = {"smoke": dataclasses.replace(config, steps=2), "full": config}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tests_flags_types", sys.modules[__name__])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    write(tmp_path, "ppo_x.py", CONFIG)
    return tmp_path


def write(folder, name, text) -> None:
    (folder / "configs" / name).write_text(textwrap.dedent(text))


def parse(*argv):
    return flags.parse_config("configs/ppo_x.py", argv, Experiment, "Train with PPO.")


def failure(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(*argv)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert "Traceback" not in text
    return " ".join(text.replace("│", " ").split())


def test_file_variant_and_flags_in_this_order(folder):
    assert parse() == Experiment(ppo=Inner(clip_eps=0.3), steps=20)
    assert parse("--config", "configs/ppo_x.py:smoke").steps == 2
    config = parse(
        *["--ppo.clip-eps", "0.1", "--config=configs/ppo_x.py:smoke", "--ppo.no-whiten"],
        *["--ppo.kind", "k3", "--ppo.reward-range", "-1", "1", "--ppo.stop-ids", "5"],
        *["--workdir", "runs/a"],
    )
    inner = Inner(clip_eps=0.1, whiten=False, kind="k3", reward_range=(-1.0, 1.0), stop_ids=(5,))
    assert config == Experiment(ppo=inner, steps=2, workdir="runs/a")
    assert parse("--ppo.reward-range", "None", "--workdir", "None").workdir is None


def test_help_shows_every_field_with_its_default(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--config", "configs/ppo_x.py:smoke", "--help")
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in (
        "Train with PPO.",
        "--config FILE[:variant]",
        "smoke, full",
        "--ppo.clip-eps FLOAT",
        "How far the ratio may move from 1. (default: 0.3)",
        "Training steps. (default: 2)",
        "--ppo.whiten, --ppo.no-whiten",
        "The run directory. (default: None)",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--ppo.clip-ep", "1"], ["--ppo.clip-ep", "Perhaps you meant", "--ppo.clip-eps FLOAT"]),
        (["--steps", "1.5"], ["--steps", "'1.5'"]),
        (["--ppo.kind", "k9"], ["'k9'", "('k1', 'k3')"]),
        (["stray"], ["stray"]),
        (["--config"], ["error: --config lacks its value"]),
        (["--config", "--steps"], ["error: --config lacks its value"]),
        (
            ["--config", "a.py", "--config", "b.py"],
            ["--config is given more than once: a.py, b.py"],
        ),
        (
            ["--config", "configs/ppo_x.py:smok"],
            ["no variant 'smok'", "smoke, full", "mean smoke?"],
        ),
        (
            ["--config", "configs/ppo_y.py"],
            ["no config file configs/ppo_y.py", "configs/ppo_x.py?"],
        ),
        (["--config", "no/where.py"], ["there is no config file no/where.py"]),
        (["--config", "configs/a.yaml"], ["configs/a.yaml is not a Python file"]),
        (["--config", "configs/bad.py"], ["configs/bad.py, line 2: '(' was never closed"]),
        (["--config", "configs/raises.py"], ["raises.py, line 3: ZeroDivisionError: division"]),
        (["--config", "configs/empty.py"], ["empty.py does not define `config`"]),
        (["--config", "configs/other.py"], ["is a int; this script takes a Experiment"]),
        (["--config", "configs/novariants.py:x"], ["has no variant 'x'; variants: none"]),
        (["--config", "configs/badvariants.py"], ["`variants` is no dict"]),
        (["--steps", "0"], ["error: steps is 0: at least 1"]),
        (["--ppo.clip-eps", "-1"], ["error: ppo: clip_eps is -1.0, not above 0"]),
    ],
)
def test_what_is_wrong_is_named(folder, capsys, argv, parts):
    write(folder, "a.yaml", "steps: 3")
    write(folder, "bad.py", "\nconfig = (\n")
    write(folder, "raises.py", "\n\nconfig = 1 / 0\n")
    write(folder, "empty.py", "")
    write(folder, "other.py", "config = 3")
    write(
        folder, "novariants.py", "from tests_flags_types import Experiment\nconfig = Experiment()"
    )
    write(folder, "badvariants.py", "config = 3\nvariants = [1]")
    text = failure(capsys, *argv)
    for part in parts:
        assert part in text, text


def test_config_is_found_from_the_repository_root(folder, monkeypatch):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(flags, "repository_root", lambda: folder)
    assert parse().steps == 20
    assert flags.load_config("configs/ppo_x.py:smoke", Experiment).steps == 2


def test_a_config_may_import_another_and_define_dataclasses(folder, monkeypatch):
    monkeypatch.setattr(flags, "repository_root", lambda: folder)
    write(folder, "base_for_import.py", "from tests_flags_types import Experiment\nsteps = 4")
    text = """
        from __future__ import annotations
        import dataclasses
        from configs.base_for_import import Experiment, steps

        @dataclasses.dataclass(frozen=True)
        class Mine(Experiment):
            extra: int | None = 3

        config = Mine(steps=steps)
    """
    write(folder, "derived.py", text)
    config = parse("--config", "configs/derived.py", "--extra", "None")
    assert config.steps == 4 and config.extra is None


def test_plain_errors_have_codes_of_their_own(capsys):
    for error, code in ((ConfigError("no"), 2), (CheckpointError("disk"), 1)):
        with pytest.raises(SystemExit) as stop, flags.plain_errors():
            raise error
        assert stop.value.code == code
        assert capsys.readouterr().err == f"error: {error}\n"
    with pytest.raises(ZeroDivisionError), flags.plain_errors():
        _ = 1 / 0
