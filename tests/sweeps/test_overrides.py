"""Overrides are typed as the dataclasses say, and what is wrong is said with its place."""

import dataclasses

import pytest

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.sweeps.overrides import fill, has_field, override
from rljax.training.errors import ConfigError

BASE = GRPOExperiment()


def test_values_land_at_their_paths_and_nowhere_else():
    made = override(BASE, {"grpo.kl.coef": 1, "steps": 7, "model.source": "random:tiny-llama"})
    assert made.grpo.kl.coef == 1.0 and isinstance(made.grpo.kl.coef, float)
    assert made.steps == 7 and made.model.source == "random:tiny-llama"
    back = override(made, {"grpo.kl.coef": BASE.grpo.kl.coef, "steps": BASE.steps})
    assert override(back, {"model.source": BASE.model.source}) == BASE


def test_a_whole_branch_and_a_field_of_it():
    branch = KLConfig(coef=0.5, estimator="k1")
    made = override(BASE, {"grpo.kl.coef": 0.25, "grpo.kl": branch})
    assert made.grpo.kl == dataclasses.replace(branch, coef=0.25)
    assert override(BASE, {"grpo.kl": {"coef": 0.5, "estimator": "k1"}}).grpo.kl == branch


@dataclasses.dataclass(frozen=True)
class Halves:
    whole: int = 4
    half: int = 2

    def __post_init__(self) -> None:
        if self.whole != 2 * self.half:
            raise ValueError(f"half is {self.half} of {self.whole}")


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Halves = Halves()


def test_rules_between_fields_see_all_of_them():
    made = override(Outer(), {"inner.whole": 6, "inner.half": 3})
    assert made.inner == Halves(6, 3)


def test_what_the_config_itself_refuses_is_said_with_the_path():
    with pytest.raises(ConfigError, match=r"^inner\.whole = 6: half is 2 of 6$"):
        override(Outer(), {"inner.whole": 6})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grpo.kl.coeff": 0.1}, r"grpo\.kl\.coeff: KLConfig has no field 'coeff'.*coef"),
        ({"learning_rate": 0.1}, r"did you mean optimizer\.learning_rate"),
        ({"grpo.kl.coef": "0.1"}, r"grpo\.kl\.coef is '0\.1', not float"),
        ({"steps": 2.5}, r"steps is 2\.5, not int"),
        ({"steps": True}, r"steps is True, not int"),
        ({"grpo.advantage": "best_of_all"}, r"grpo\.advantage is 'best_of_all'"),
        ({"grpo.kl": ModelConfig()}, r"grpo\.kl is a ModelConfig, not KLConfig"),
        ({"steps.more": 1}, r"steps\.more: steps is 40, which has no fields"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        override(BASE, changes)


def test_names_are_filled_into_strings_everywhere():
    config = GRPOExperiment(model=ModelConfig(source="{stages}/base"), grpo=GRPOConfig())
    made = fill(config, {"stages": "runs/x/stages"})
    assert made.model.source == "runs/x/stages/base"
    assert dataclasses.replace(made, model=config.model) == config
    assert fill(("{stages}", 1, {"a": "{stages}"}), {"stages": "s"}) == ("s", 1, {"a": "s"})


def test_fields_are_found_by_path():
    assert has_field(BASE, "grpo.kl.coef") and has_field(BASE, "steps")
    assert not has_field(BASE, "ppo.kl.coef") and not has_field(BASE, "steps.more")
