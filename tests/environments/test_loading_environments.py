"""Loading environments by name, their settings, and clear errors for what cannot be loaded."""

import pytest

from rljax.environments import EnvironmentFailure, load_environment, reset, step

SOURCE = """
import dataclasses
from typing import Literal

@dataclasses.dataclass
class Echo:
    times: int = 1
    scale: float = 1.0
    loud: bool = False
    word: str = "say"
    mode: Literal["plain", "odd"] = "plain"
    sizes: tuple[int, ...] = (1,)
    limit: int | None = None

    def reset(self, *, seed):
        return f"{self.word} {seed}", {}

    def step(self, text):
        said = (text.upper() if self.loud else text) * self.times
        return said, self.scale * len(text), True, False, {"mode": self.mode, "sizes": self.sizes}

class Mute:
    def reset(self, *, seed):
        return "", {}

class Broken:
    def __init__(self):
        raise OSError("no data")

constant = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "echo_env.py"
    path.write_text(SOURCE)
    return path


def test_a_class_with_settings_of_its_types(file, monkeypatch):
    made = load_environment(
        f"{file}:Echo?times=2&scale=3&loud=true&word=7&mode=odd&sizes=[2,3]&limit=4"
    )()
    assert reset(made, 5) == "7 5"
    played = step(made, "ab")
    assert played.observation == "ABAB" and played.reward == 6.0 and played.terminated
    assert played.info == {"mode": "odd", "sizes": (2, 3)} and made.limit == 4
    assert load_environment(f"{file}:Echo?limit=null")().limit is None
    monkeypatch.syspath_prepend(file.parent)
    assert load_environment("echo_env:Echo")() is not load_environment("echo_env:Echo")()


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("guess", "unknown environment 'guess': an environment is 'path/to/file.py:Class'"),
        ("FILE:Nothing", "has no 'Nothing'; it has .*Echo"),
        ("nowhere.py:Echo", "there is no file .*nowhere.py"),
        ("no.such.module:Echo", "cannot import 'no.such.module'"),
        ("FILE:constant", "must be a class, it is a int"),
        ("FILE:Mute", "Mute has no step; it needs reset"),
        ("FILE:Broken", "making it failed: OSError.*no data"),
        ("FILE:Echo?wrong=1", "there is no setting 'wrong'; it has .*times"),
        ("FILE:Echo?times=1.5", "times is '1.5'; it must be int"),
        ("FILE:Echo?times=true", "times is 'true'; it must be int"),
        ("FILE:Echo?scale=big", "scale is 'big'; it must be float"),
        ("FILE:Echo?loud=1", "loud is '1'; it must be bool"),
        ("FILE:Echo?mode=even", "mode is 'even'; it must be one of"),
        ("FILE:Echo?sizes=2", "sizes is '2'; it must be tuple"),
        ("FILE:Echo?times", "expected key=value"),
        ("FILE:Echo?times=1&times=2", "stands there twice"),
    ],
)
def test_what_cannot_be_loaded(spec, problem, file):
    with pytest.raises(EnvironmentFailure, match=problem):
        load_environment(spec.replace("FILE", str(file)))


class Odd:
    def __init__(self, first=("go", {}), then=("on", 1, False, False, {})):
        self.first, self.then = first, then

    def reset(self, *, seed):
        if isinstance(self.first, Exception):
            raise self.first
        return self.first

    def step(self, text):
        return self.then


def test_what_an_environment_may_not_return():
    for first in ("go", (3, {}), ValueError("no")):
        with pytest.raises(EnvironmentFailure, match=r"Odd: reset\(seed=4\)"):
            reset(Odd(first), 4)
    with pytest.raises(EnvironmentFailure, match="empty observation"):
        reset(Odd((" \n", {})), 4)
    for then in (("on", 1.0, True, {}), (None, 1.0, True, False, {})):
        with pytest.raises(EnvironmentFailure, match="Odd: step"):
            step(Odd(then=then), "a")
    with pytest.raises(EnvironmentFailure, match="info of a step must be a dict"):
        step(Odd(then=("on", 1.0, True, False, None)), "a")
    for reward in (float("nan"), None, "1"):
        with pytest.raises(EnvironmentFailure, match="must be a finite number"):
            step(Odd(then=("on", reward, True, False, {})), "a")
