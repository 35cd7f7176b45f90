"""Episodes side by side: what ends them, what is written down, and where rewards stand."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rljax.environments.config import EnvironmentConfig
from rljax.errors import UserError
from rljax.rollout.episodes import (
    Episode,
    Exchange,
    Pool,
    Table,
    episode_metrics,
    require_alike,
    require_scores,
)
from rljax.rollout.turns import Talking, Turn

SLOTS, CONTEXT, PAD = 20, 40, 0


class Count:
    """Ask for a number of letters; what happens is decided by the seed."""

    def reset(self, *, seed):
        self.seed, self.turn = seed, 0
        return "a" * (1 + seed % 3), {}

    def step(self, text):
        self.turn += 1
        if self.seed == 7:
            raise OSError("the line is dead")
        if self.seed == 8:
            time.sleep(0.6)
        long = "x" * 30 if self.seed == 5 else "ok"
        return long, self.turn + 0.5, self.seed == 1 and self.turn == 2, self.seed == 2, {}


class Speaker:
    def first(self, observation):
        return [1] * len(observation)

    def answer(self, observation, last):
        return [] if last == 9 else [2] * len(observation)


class Fake:
    """What a policy would do: rows say one token less than their number, and at least one."""

    def __init__(self, width=4, last=5):
        self.live, self.read_widths, self.width, self.last = [], [], width, last

    def talking(self) -> Talking:
        return Talking(None, self.start, self.write, self.read)

    def start(self, prepared, prompts, key):
        self.prompts = prompts
        return SimpleNamespace(made=None)

    def write(self, prepared, state, live):
        self.live.append(np.asarray(live).tolist())
        counts = np.where(live, np.clip(np.arange(len(live)), 1, self.width), 0)
        tokens = np.full((len(live), self.width), self.last)
        return state, Turn(tokens, counts.astype(np.int32))

    def read(self, prepared, state, tokens, counts, live):
        self.read_widths.append((tokens.shape[1], counts.tolist(), live.tolist()))
        return state


def play(seeds, fake=None, make=Count, **changes):
    config = EnvironmentConfig(
        **{"name": "x", "max_turns": 3, "max_turn_tokens": 4, "max_observation_tokens": 8} | changes
    )
    fake = fake or Fake()
    table = Table(Pool(make), config, Speaker(), lambda ids: f" {ids} ", PAD, SLOTS, CONTEXT, 4)
    played = table.play(fake.talking(), None, seeds, [0] * len(seeds), jax.random.key(0))
    return played, fake, table


def test_episodes_end_for_their_own_reasons():
    played, fake, _ = play([0, 1, 2, 5])
    ends = [episode.end for episode in played.episodes]
    assert ends == ["turns", "terminated", "truncated", "room"]
    assert [len(episode.exchanges) for episode in played.episodes] == [3, 2, 1, 1]
    assert fake.live == [[True] * 4, [True, True, False, False], [True, False, False, False]]
    assert played.scores.tolist() == [1.5 + 2.5 + 3.5, 1.5 + 2.5, 1.5, 1.5]
    # rewards stand on the last own token of a turn: 1 token, 2 of an answer, 1 token, ...
    places = [np.flatnonzero(row).tolist() for row in played.turn_rewards]
    assert places == [[0, 3, 6], [0, 3], [1], [2]]
    assert np.allclose(played.turn_rewards.sum(axis=1), played.scores)
    # answers of 2 tokens are read in the smallest of the widths 2, 4, 8
    assert fake.read_widths[0] == (2, [2, 2, 0, 0], [True, True, False, False])
    assert fake.prompts.mask.sum(axis=1).tolist() == [1, 2, 3, 3]
    assert fake.prompts.tokens.shape == (4, 4) and fake.prompts.ids.tolist() == [0, 1, 2, 5]
    assert played.episodes[1].text().startswith("> [5]\n[+1.5] ok\n> [5]")
    metrics = episode_metrics(played.episodes)
    assert metrics["episode/turns"] == 7 / 4 and metrics["episode/failures"] == 0
    assert metrics["episode/truncated_fraction"] == 3 / 4
    assert metrics["episode/return"] == pytest.approx(np.mean(played.scores))


def test_a_conversation_never_outgrows_its_slots():
    played, _, _ = play([0, 0, 0, 0], Fake(width=4), max_turns=9)
    for episode, rewards in zip(played.episodes, played.turn_rewards, strict=True):
        assert episode.end == "room" and np.flatnonzero(rewards).max() < SLOTS
        assert len(episode.exchanges) >= 3


def test_an_observation_without_tokens_is_no_end():
    played, fake, _ = play([0, 0], Fake(last=9))
    assert [len(episode.exchanges) for episode in played.episodes] == [3, 3]
    assert fake.read_widths[0] == (2, [0, 0], [True, True])


def test_a_step_that_raises_costs_its_episode_only():
    played, _, table = play([7, 1])
    failed, good = played.episodes
    assert failed.end == "failed" and "OSError: the line is dead" in failed.reason
    assert math.isnan(played.scores[0]) and good.end == "terminated"
    assert not played.turn_rewards[0].any()
    assert len(table.pool._made) == 1  # the environment that failed is not used again
    metrics = episode_metrics(played.episodes)
    assert metrics["episode/failures"] == 1 and metrics["episode/turns"] == 2
    assert episode_metrics([failed]) == {"episode/failures": 1.0}
    require_scores(played.episodes, 0.5)
    with pytest.raises(UserError, match=r"(?s)1 of 2 episodes failed.*seed 7.*line is dead"):
        require_scores(played.episodes, 0.4)


def test_a_step_that_takes_too_long_is_left_behind():
    started = time.perf_counter()
    played, _, _ = play([1, 8, 1], step_timeout_s=0.15)
    assert time.perf_counter() - started < 0.55
    assert [episode.end for episode in played.episodes] == ["terminated", "failed", "terminated"]
    assert "took longer than 0.15 s" in played.episodes[1].reason
    patient, _, _ = play([8], max_turns=1, step_timeout_s=5.0)
    assert patient.episodes[0].end == "turns"


def test_a_first_observation_has_to_fit():
    class Long(Count):
        def reset(self, *, seed):
            return "a" * (CONTEXT - SLOTS + 1), {}

    with pytest.raises(UserError, match="seed 3 has 21 tokens, but the model's context of 40"):
        play([3], make=Long)


def test_one_seed_begins_alike():
    episodes = [Episode(1, "a"), Episode(1, "a"), Episode(2, "b"), Episode(2, "c")]
    require_alike(episodes[:2], 2)
    require_alike(episodes, 1)
    with pytest.raises(UserError, match="seed 2 began with 'b' once and with 'c'"):
        require_alike(episodes, 2)


def test_scores_are_sums():
    episode = Episode(1, "a", [Exchange("x", 0.5, "y"), Exchange("z", -1.0, "")], "terminated")
    assert episode.score == -0.5 and not episode.cut_off
    assert episode.text() == "> x\n[+0.5] y\n> z\n[-1]"
