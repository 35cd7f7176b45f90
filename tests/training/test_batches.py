"""Refilling a batch (DAPO's dynamic sampling): which groups are kept, and in which order."""

from types import SimpleNamespace

import numpy as np
import pytest

from rljax.training import batches
from rljax.types import Completions, Prompts, Rollout

GROUP, SIZE = 2, 6
NAN = float("nan")


def collected(draw: int, scores: list[float], width: int = 3) -> batches.Collected:
    """A batch whose every row says where it comes from: tokens and ids are 100 draw + row."""
    ids = 100 * draw + np.arange(len(scores), dtype=np.int32)
    tokens = np.repeat(ids[:, None], width, axis=1)
    mask = np.ones((len(scores), width), bool)
    mask[:, 0] = False
    made = np.repeat(ids[:, None], 2, axis=1)
    zeros = np.zeros(made.shape, np.float32)
    rollout = Rollout(
        Prompts(tokens, mask, ids, ids % GROUP),
        Completions(made, made >= 0, zeros, zeros),
        zeros + draw,
    )
    names = [str(i) for i in ids]
    judged = {"rewards/a": float(draw)} | ({"rewards/b": 8.0} if draw % 2 else {})
    seconds = {"rollout": 1.0, "reward": 2.0}
    return batches.Collected(
        rollout, [f"p{n}" for n in names], names, np.asarray(scores, np.float32), judged, seconds,
        len(scores),
    )  # fmt: skip


@pytest.fixture
def collect(monkeypatch):
    """Return a function that refills from given batches: what it makes, and the draws it took."""

    def run(given: list[batches.Collected], *, further: int, step: int = 0):
        draws: list[int] = []

        def sample_and_judge(setup, state, draw, meanwhile=None):
            draws.append(draw)
            return given[len(draws) - 1]

        monkeypatch.setattr(batches, "sample_and_judge", sample_and_judge)
        algorithm = SimpleNamespace(
            samples_per_prompt=GROUP, batch_size=SIZE, further_batches=further
        )
        setup = SimpleNamespace(algorithm=algorithm)
        return batches.collect(setup, None, step), draws

    return run


EQUAL, MIXED = [1.0, 1.0], [0.0, 1.0]


def test_a_full_batch_is_not_refilled(collect):
    batch = collected(0, MIXED * 3)
    made, draws = collect([batch], further=4)
    assert made is batch and draws == [0]


def test_without_further_batches_it_stays_as_it_is(collect):
    batch = collected(0, EQUAL * 3)
    made, draws = collect([batch], further=0, step=5)
    assert made is batch and draws == [5]


def test_informative_groups_are_kept_in_the_order_they_came(collect):
    given = [
        collected(0, EQUAL + MIXED + EQUAL),
        collected(1, MIXED + EQUAL + MIXED),
        collected(2, MIXED * 3),
    ]
    made, draws = collect(given, further=4)
    assert draws == [0, 1]  # three informative groups are there: no third batch
    rows = [2, 3, 100, 101, 104, 105]
    np.testing.assert_array_equal(made.rollout.prompts.ids, rows)
    np.testing.assert_array_equal(made.rollout.completions.tokens[:, 0], rows)
    np.testing.assert_array_equal(made.rollout.ref_log_probs[:, 0], [0, 0, 1, 1, 1, 1])
    assert made.texts == [str(row) for row in rows]
    assert made.prompts == [f"p{row}" for row in rows]
    np.testing.assert_array_equal(made.scores, MIXED * 3)
    assert made.samples == 12 and made.seconds == {"rollout": 2.0, "reward": 4.0}
    assert made.judged == {"rewards/a": 0.5, "rewards/b": 8.0}


def test_when_batches_run_out_other_groups_fill_the_rest(collect):
    given = [collected(0, EQUAL * 3), collected(1, EQUAL + MIXED + EQUAL)]
    made, draws = collect(given, further=1)
    assert draws == [0, 1]
    np.testing.assert_array_equal(made.rollout.prompts.ids, [102, 103, 0, 1, 2, 3])


def test_a_failed_reward_does_not_make_a_group_informative(collect):
    given = [collected(0, [NAN, 1.0] + MIXED * 2), collected(1, MIXED * 3)]
    made, _ = collect(given, further=1)
    np.testing.assert_array_equal(made.rollout.prompts.ids, [2, 3, 4, 5, 100, 101])


def test_prompts_of_other_widths_are_padded_on_the_left(collect):
    given = [collected(0, MIXED + EQUAL * 2), collected(1, MIXED * 3, width=5)]
    prompts = collect(given, further=1)[0].rollout.prompts
    np.testing.assert_array_equal(prompts.mask[:2], [[False] * 3 + [True] * 2] * 2)
    np.testing.assert_array_equal(prompts.mask[2:], [[False] + [True] * 4] * 4)
    np.testing.assert_array_equal(prompts.tokens[1], [1] * 5)


def test_steps_share_no_draw(collect):
    given = [collected(i, EQUAL * 3) for i in range(3)]
    draws = [collect(given, further=2, step=step)[1] for step in range(3)]
    assert draws == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
