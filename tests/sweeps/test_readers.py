"""Readers of small series whose answers are seen at a glance."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from rljax.errors import UserError
from rljax.sweeps.readers import at, first_step_where, last, less_kl, maximum, mean_of_last


def record(**tags):
    series = {
        name.replace("__", "/"): SimpleNamespace(
            steps=np.arange(1, len(values) + 1) * 10, values=np.asarray(values, float)
        )
        for name, values in tags.items()
    }
    return SimpleNamespace(metrics=series)


RUN = record(eval__score=[0.1, 0.5, 0.9, 0.7], loss=[3.0, math.nan])


def test_values_by_hand():
    assert last("eval/score")(RUN) == 0.7
    assert maximum("eval/score")(RUN) == 0.9
    assert at("eval/score", 20)(RUN) == 0.5
    assert mean_of_last("eval/score", 0.5)(RUN) == pytest.approx(0.8)
    assert mean_of_last("eval/score", 0.01)(RUN) == 0.7
    assert mean_of_last("eval/score", 1)(RUN) == pytest.approx(0.55)


def test_the_score_at_a_price_of_the_kl():
    run = record(objective__scores=[9, 1, 2], objective__kl=[9, 4, 6], objective__own=[0, 1, 1])
    assert less_kl(0.1, 2 / 3)(run) == pytest.approx(1.5 - 0.5)
    assert less_kl(0.1, 2 / 3, "objective/own")(run) == pytest.approx(1.4)


def test_the_first_step_beyond_a_bound():
    assert first_step_where("eval/score", ">=", 0.5)(RUN) == 20
    assert first_step_where("eval/score", ">", 0.5)(RUN) == 30
    assert first_step_where("eval/score", "<", 0.2)(RUN) == 10
    assert first_step_where("eval/score", ">", 1.0, otherwise=41)(RUN) == 41
    assert math.isnan(first_step_where("eval/score", ">", 1.0)(RUN))


def test_nan_is_not_hidden():
    assert math.isnan(last("loss")(RUN)) and math.isnan(maximum("loss")(RUN))
    assert math.isnan(mean_of_last("loss", 1)(RUN))


def test_what_is_not_there_is_named_with_what_is():
    with pytest.raises(UserError, match=r"no 'eval/scores'; it has eval/score"):
        last("eval/scores")(RUN)
    with pytest.raises(UserError, match=r"no value at step 15; it has \[10, 20, 30, 40\]"):
        at("eval/score", 15)(RUN)


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="share is 0"):
        mean_of_last("x", 0)
    with pytest.raises(ValueError, match="relation is '=='"):
        first_step_where("x", "==", 1.0)
