"""The order of prompts: a pure function of seed and step that leaves nothing out."""

import numpy as np
import pytest

from rljax.tasks.order import batch_indices


def run(first, last, **options):
    return np.concatenate([batch_indices(s, **options) for s in range(first, last)])


@pytest.mark.parametrize(("size", "batch_size"), [(10, 4), (7, 7), (3, 8), (1, 2)])
def test_every_epoch_holds_every_prompt_once(size, batch_size):
    order = run(0, 3 * size, size=size, batch_size=batch_size, seed=1)
    for epoch in range(3 * batch_size):
        assert sorted(order[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_resuming_needs_only_the_step():
    options = {"size": 23, "batch_size": 5, "seed": 3}
    whole = run(0, 20, **options)
    np.testing.assert_array_equal(whole[11 * 5 :], run(11, 20, **options))


def test_epochs_and_seeds_differ():
    options = {"size": 50, "batch_size": 50}
    first, second = (batch_indices(s, seed=0, **options) for s in (0, 1))
    other = batch_indices(0, seed=1, **options)
    assert (first != second).any()
    assert (first != other).any()


def test_the_order_is_the_same_on_every_machine():
    order = batch_indices(0, size=10, batch_size=10, seed=0)
    np.testing.assert_array_equal(order, [6, 1, 0, 5, 3, 8, 7, 9, 2, 4])
    assert order.dtype == np.int32


@pytest.mark.parametrize("bad", [{"size": 0}, {"batch_size": 0}, {"step": -1}, {"seed": -1}])
def test_bad_arguments_raise(bad):
    with pytest.raises(ValueError, match="must be positive"):
        batch_indices(**{"step": 0, "size": 3, "batch_size": 2, "seed": 0} | bad)
