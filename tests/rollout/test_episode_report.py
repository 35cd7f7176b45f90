"""What environments measure of episodes, put together."""

import pytest

from rljax.environments.text import Step
from rljax.rollout.episodes import Episode, _write_down, episode_report


def played(end: str, *turns: tuple[str, dict[str, float]]) -> Episode:
    episode = Episode(seed=0, first="go")
    for said, info in turns:
        _write_down(episode, said, Step("on", 1.0, False, False, info))
    if end == "failed":
        _write_down(episode, "x", "it broke")
    return episode


def test_metrics_are_those_of_the_last_step_averaged_over_whole_episodes():
    report = episode_report(
        [
            played("", ("a b", {"metrics": {"clicks": 9}}), ("a b", {"metrics": {"clicks": 1}})),
            played("", ("c", {"metrics": {"clicks": 2, "late": 5.0}})),
            played("failed", ("d", {"metrics": {"clicks": 100}})),
            played("", ("c", {})),
        ]
    ).metrics
    assert report["clicks"] == 1.5 and report["late"] == 5.0
    assert report["episode/turns"] == pytest.approx(4 / 3)
    assert report["distinct_1"] == pytest.approx(3 / 6) and report["distinct_2"] == 0.5


def test_no_whole_episode_has_no_metrics():
    assert "episode/turns" not in episode_report([played("failed")]).metrics
