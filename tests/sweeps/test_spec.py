"""Sweeps: their arms by hand, their cells, and what is refused before anything runs."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rljax.experiment import GRPOExperiment, PPOExperiment
from rljax.sweeps.spec import (
    Claim,
    StageSpec,
    Sweep,
    chain,
    grid,
    last,
    load_sweep,
    place,
    zipped,
)
from rljax.training.errors import ConfigError

SWEEP = Sweep(
    name="toy",
    base=GRPOExperiment(eval_prompts=0),
    arms=grid(**{"grpo.kl.coef": [0.0, 0.1]}),
    seeds=(3, 5),
    metrics={"score": last("objective/scores")},
    claims=(Claim("less", "score", "coef=0.1", "<", "coef=0"),),
    smoke={"steps": 2, "grpo.batch_size": 8},
)


def test_every_combination_is_an_arm():
    arms = grid(**{"grpo.kl.coef": [0.0, 0.1], "steps": {"short": 5, "long": 50}})
    assert list(arms) == ["coef=0,short", "coef=0,long", "coef=0.1,short", "coef=0.1,long"]
    assert arms["coef=0.1,short"] == {"grpo.kl.coef": 0.1, "steps": 5}


def test_zipped_arms_go_side_by_side():
    arms = zipped(**{"grpo.kl.coef": [0.0, 0.1], "steps": [5, 50]})
    assert arms == {
        "coef=0,steps=5": {"grpo.kl.coef": 0.0, "steps": 5},
        "coef=0.1,steps=50": {"grpo.kl.coef": 0.1, "steps": 50},
    }
    with pytest.raises(ConfigError, match="one length"):
        zipped(a=[1], b=[1, 2])


def test_a_chain_adds_to_what_came_before():
    arms = chain({"plain": {}, "+a": {"x": 1, "y": 1}, "+b": {"y": 2}})
    assert arms == {"plain": {}, "+a": {"x": 1, "y": 1}, "+b": {"x": 1, "y": 2}}


def test_arms_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="two arms are called"):
        grid(x=[0.1, 0.10000000001])
    with pytest.raises(ConfigError, match="no list of values"):
        grid(x=0.1)


def test_cells_hold_arm_and_seed():
    cells = SWEEP.cells()
    assert [cell.name for cell in cells] == [
        "coef=0/seed3", "coef=0/seed5", "coef=0.1/seed3", "coef=0.1/seed5",
    ]  # fmt: skip
    last_one = cells[-1].config
    assert (last_one.grpo.kl.coef, last_one.seed) == (0.1, 5)
    assert replace(cells[0].config, seed=0) == SWEEP.arm_config("coef=0")


def test_an_arm_may_have_a_base_of_its_own():
    other = PPOExperiment(eval_prompts=0)
    arms = {"grpo": {}, "ppo": {"base": other, "ppo.gae_lambda": 0.5}}
    cells = replace(SWEEP, arms=arms, claims=()).cells()
    assert isinstance(cells[2].config, PPOExperiment) and cells[2].config.ppo.gae_lambda == 0.5
    tiny = replace(SWEEP, arms=arms, claims=()).tiny().cells()
    assert [cell.seed for cell in tiny] == [3, 3]
    assert all(cell.config.steps == 2 for cell in tiny)
    assert tiny[0].config.grpo.batch_size == 8
    assert tiny[1].config.ppo == replace(other.ppo, gae_lambda=0.5)


def test_stages_are_placed_and_made_tiny():
    stage = StageSpec(SWEEP.base, smoke={"steps": 1})
    sweep = replace(SWEEP, stages={"base": stage}, arms={"a": {"model.source": "{stages}/base"}},
                    claims=())  # fmt: skip
    assert sweep.stage_configs()["base"] == SWEEP.base
    assert sweep.tiny().stage_configs()["base"].steps == 1
    (cell, _) = sweep.cells()
    assert place(cell.config, Path("runs/toy")).model.source == "runs/toy/stages/base"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"a": {"grpo.kl.coeff": 1.0}}, "claims": ()}, r"toy, arm a: grpo\.kl\.coeff"),
        ({"arms": {"a": {"steps": 0}}, "claims": ()}, r"toy, arm a: steps is 0"),
        ({"arms": {"a": {"base": 3}}, "claims": ()}, "its base is 3, no config"),
        ({"stages": {"base": replace(SWEEP.base, steps=0)}}, "toy, stage base: steps is 0"),
        ({"smoke": {"grpo.stepss": 1}}, r"smoke: no arm has a field grpo\.stepss"),
        ({"smoke": {"steps": "1"}}, "steps is '1', not int"),
    ],
)
def test_what_cannot_work_is_found_before_anything_runs(changes, message):
    sweep = replace(SWEEP, **changes)
    with pytest.raises(ConfigError, match=message):
        sweep.stage_configs()
        sweep.tiny().cells()
        sweep.cells()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"a b": {}}}, "arm 'a b' names a folder"),
        ({"arms": {"../a": {}}}, "names a folder"),
        ({"arms": {}}, "has no arms"),
        ({"seeds": (1, 1)}, "seeds .* repeat"),
        ({"metrics": {"score": "objective/scores"}}, "not a reader"),
        (
            {"claims": (Claim("c", "score", "coef=0.2", "<", 1.0),)},
            r"no 'coef=0\.2'; did you mean 'coef=0",
        ),
        ({"claims": (Claim("c", "scores", "coef=0", "<", 1.0),)}, "did you mean 'score'"),
    ],
)
def test_a_sweep_that_is_none_is_refused_at_once(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(SWEEP, **changes)


def test_some_arms_and_seeds_can_be_chosen():
    some = SWEEP.chosen(arms=["coef=0.1"], seeds=[9])
    assert [cell.name for cell in some.cells()] == ["coef=0.1/seed9"] and some.claims == ()
    assert SWEEP.chosen(seeds=[9]).claims == SWEEP.claims
    with pytest.raises(ConfigError, match=r"no arm 'coef=0\.2'; did you mean"):
        SWEEP.chosen(arms=["coef=0.2"])


@dataclass(frozen=True)
class Measuring:
    size: int = 3
    seed: int = 0


def test_programs_may_have_configs_of_their_own():
    sweep = replace(SWEEP, base=Measuring(), arms=grid(size=[1, 2]), claims=(), smoke={"size": 1},
                    program=lambda config, run_dir: None)  # fmt: skip
    assert [cell.config for cell in sweep.cells()] == [
        Measuring(1, 3), Measuring(1, 5), Measuring(2, 3), Measuring(2, 5),
    ]  # fmt: skip


FILE = """
from rljax.experiment import GRPOExperiment
from rljax.sweeps.spec import Sweep, grid, last

cpu = Sweep(
    name="toy",
    base=GRPOExperiment(eval_prompts=0),
    arms=grid(**{"grpo.kl.coef": [0.0, 0.1]}),
    seeds=(0,),
    metrics={"score": last("objective/scores")},
)
"""


def test_files_are_loaded_by_size(tmp_path):
    file = tmp_path / "toy.py"
    file.write_text(FILE)
    assert load_sweep(str(file)).name == "toy"
    with pytest.raises(ConfigError, match=r"holds no sweep 'full'.*sizes: cpu"):
        load_sweep(str(file), "full")
    file.write_text(FILE.replace("seeds=(0,)", "seeds=()"))
    with pytest.raises(ConfigError, match=r"toy\.py, line 5: .*it has no seeds"):
        load_sweep(str(file))
    with pytest.raises(ConfigError, match=r"no config file .*toi\.py.*did you mean .*toy\.py"):
        load_sweep(str(tmp_path / "toi.py"))
