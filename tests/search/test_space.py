"""Spaces of a search: what is read, what is refused before anything runs, and flags that return."""

import pytest

pytest.importorskip("optuna")
from rljax.experiment import GRPOExperiment, PretrainExperiment
from rljax.search.space import Axis, apply, as_flags, parse_axis, parse_space
from rljax.sweeps.overrides import override
from rljax.training.errors import ConfigError
from rljax.training.flags import parse_config

BASE = GRPOExperiment()
CONFIG = "configs/grpo_sentiment.py:smoke"


@pytest.mark.parametrize(
    ("entry", "axis"),
    [
        ("optimizer.learning_rate=log(1e-5,1e-3)",
         Axis("optimizer.learning_rate", "log", (1e-5, 1e-3))),
        (" grpo.kl.coef = choice(0, 0.01, 0.1) ", Axis("grpo.kl.coef", "choice", (0, 0.01, 0.1))),
        ("grpo.num-epochs=int(1,4)", Axis("grpo.num_epochs", "int", (1, 4))),
        ("grpo.clip-eps-high=choice(None,0.28)",
         Axis("grpo.clip_eps_high", "choice", (None, 0.28))),
        ('task.stop_token=choice("a,b",c)', Axis("task.stop_token", "choice", ("a,b", "c"))),
        ("grpo.whiten_advantages=choice(True,False)",
         Axis("grpo.whiten_advantages", "choice", (True, False))),
    ],
    ids=str,
)  # fmt: skip
def test_entries_are_read(entry, axis):
    assert parse_axis(entry) == axis
    assert parse_axis(axis.text()) == axis or '"' in entry


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("optimizer.learning_rate", "is not of the form NAME=log"),
        ("optimizer.learning_rate=exp(1,2)", "there is no 'exp'"),
        ("optimizer.learning_rate=log(0,1)", "a low end above 0"),
        ("optimizer.learning_rate=log(1e-3,1e-5)", "low must be below high"),
        ("optimizer.learning_rate=log(1e-3)", "needs two numbers"),
        ("grpo.num_epochs=int(1,2.5)", "needs two whole numbers"),
        ("grpo.kl.coef=choice(0.1)", "two different values or more"),
        ("grpo.kl.coef=choice(0.1,0.1)", "two different values or more"),
        ("grpo.kl.coeff=choice(0,1)", "did you mean coef"),
        ("optimizer.learning_rte=log(1e-5,1e-3)", "did you mean learning_rate"),
        ("grpo.num_epochs=uniform(1,4)", "a whole number needs int or logint"),
        ("grpo.kl.coef=choice(a,b)", "grpo.kl.coef"),
        ("grpo.objective=choice(clip,clipp)", "grpo.objective"),
        ("grpo.clip_eps=uniform(-1,0.2)", "at -1"),
        ("seed=int(0,5)", "the search sets it itself"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(entry, message):
    with pytest.raises(ConfigError) as error:
        parse_space([entry], BASE)
    assert message in str(error.value)


def test_a_space_needs_entries_and_each_field_once():
    with pytest.raises(ConfigError, match="at least one --space"):
        parse_space([], BASE)
    with pytest.raises(ConfigError, match="given twice"):
        parse_space(["grpo.kl.coef=choice(0,1)", "grpo.kl.coef=uniform(0,1)"], BASE)


def test_fields_that_depend_on_each_other_may_be_searched_together():
    """A target needs an entropy bonus: alone it is refused, beside one that has it is not."""
    target = "grpo.target_entropy=choice(None,0.2)"
    with pytest.raises(ConfigError, match="entropy_coef"):
        parse_space([target], BASE)
    space = parse_space([target, "grpo.entropy_coef=choice(0.0,0.01)"], BASE)
    assert len(space) == 2
    with pytest.raises(ConfigError):
        apply(BASE, {"grpo.target_entropy": 0.2, "grpo.entropy_coef": 0.0})


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer.learning_rate": 3.1622776601683795e-05, "grpo.kl.coef": 0.0},
        {"grpo.whiten_advantages": True, "grpo.share_prompts": False, "grpo.clip_eps_high": None},
        {"grpo.objective": "cispo", "task.stop_token": "\n", "grpo.num_epochs": 3},
    ],
    ids=["floats", "booleans", "texts"],
)
def test_flags_give_the_values_back(values):
    base = parse_config(CONFIG, [], GRPOExperiment)
    assert parse_config(CONFIG, as_flags(values), GRPOExperiment) == override(base, values)


def test_fields_at_the_top_are_flags_too():
    assert as_flags({"overlap": False, "steps": 3}) == ["--no-overlap", "--steps", "3"]
    made = apply(PretrainExperiment(), {"tokenizer": "bytes", "steps": 7})
    assert made.tokenizer == "bytes" and made.steps == 7
