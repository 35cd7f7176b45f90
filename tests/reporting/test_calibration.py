"""Calibration: by hand, of predictions that are right as often as they say, and of sure ones."""

import numpy as np
import pytest

from rljax.reporting.calibration import calibration


def test_by_hand():
    logits = np.log([3.0, 3.0, 3.0, 1 / 3, 19.0])  # confidence 3/4 four times, 19/20 once
    found = calibration(logits, [True, True, False, False, True], num_bins=5)
    assert found.accuracy == pytest.approx(4 / 5)
    assert found.ece == pytest.approx(1 / 5 * 0.05)
    assert [b.predictions for b in found.bins] == [0, 0, 4, 0, 1]
    assert found.bins[2] == pytest.approx((0.7, 0.8, 4, 0.75, 0.75))
    assert found.bins[4] == pytest.approx((0.9, 1.0, 1, 0.95, 1.0))


def test_probabilities_that_come_true_are_calibrated_and_doubled_logits_are_not():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20_000)
    outcomes = rng.random(20_000) < 1 / (1 + np.exp(-logits))
    assert calibration(logits, outcomes).ece < 0.01
    assert calibration(3 * logits, outcomes).ece > 0.05
    assert calibration(3 * logits, outcomes).accuracy == calibration(logits, outcomes).accuracy


def test_no_opinion_is_half_right():
    assert calibration([0.0, 0.0], [True, False]).accuracy == 0.5
    assert calibration([1000.0], [True]).ece == pytest.approx(0)


@pytest.mark.parametrize("logits, outcomes", [([], []), ([1.0], []), ([np.nan], [True])])
def test_bad_input(logits, outcomes):
    with pytest.raises(ValueError):
        calibration(logits, outcomes)
