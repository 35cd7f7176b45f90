"""The first step compiles ahead what it needs after sampling, and nothing of it twice."""

import numpy as np
import pytest

from rljax.training.batches import collect
from rljax.training.compilation import CompileCounter
from rljax.training.first_step import check_first_step, compares_scorings, compile_learning
from tests.experiments.conftest import unoptimised
from tests.training.fused_cases import make_experiment, setup_of


@pytest.mark.parametrize("name", ["grpo", pytest.param("remax", marks=pytest.mark.slow)])
def test_what_is_compiled_ahead_is_what_is_called(tmp_path, name):
    config = make_experiment(tmp_path, name)
    setup = setup_of(config)
    state = setup.first_state()
    ahead = []

    def meanwhile(rollout):
        compile_learning(setup, state, 0, rollout)
        ahead.append(len(rollout.completions.tokens))

    with unoptimised():
        batch = collect(setup, state, 0, meanwhile)
        assert ahead == [config.algorithm.batch_size]
        more = setup.greedy_scores(state, 0)
        given = setup.update_arguments(state, 0, batch.rollout, batch.scores, *more)
        setup.log_probs(state, batch.rollout)
        check_first_step(setup, state, batch.rollout, batch.texts)  # its own small programs
        with CompileCounter() as counter:
            setup.log_probs(state, batch.rollout)
            _, metrics = setup.programs.update(*given)
        assert counter.count == 0
    assert np.isfinite(metrics["optim/grad_norm"])


def test_the_learner_scores_the_first_batch_where_there_is_a_bound(tmp_path):
    assert compares_scorings(setup_of(make_experiment(tmp_path, "grpo")))
    assert not compares_scorings(setup_of(make_experiment(tmp_path, "grpo", max_ratio_gap=None)))
