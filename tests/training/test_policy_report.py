"""What is written of an evaluation."""

import numpy as np
import pytest

from rljax.tasks.evaluation import Evaluation
from rljax.training.policy_report import log_evaluation
from rljax.training.writer import MetricsWriter, read_jsonl


def test_every_reward_of_an_evaluation_is_written_by_itself(tmp_path):
    parts = {"model": np.array([1.0, 3.0, 5.0]), "words": np.array([0.5, np.nan, 0.0])}
    result = Evaluation(
        prompts=["a", "b", "c"],
        completions=["x", "y", "z"],
        scores=np.array([1.0, np.nan, 5.0], np.float32),
        components=parts,
        kl=np.array([0.0, 1.0, 2.0]),
        lengths=np.array([1, 2, 3]),
    )
    with MetricsWriter(tmp_path) as writer:
        log_evaluation(writer, 7, result)
    (row,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert row["eval/rewards/model"] == pytest.approx(3.0)
    assert row["eval/rewards/words"] == pytest.approx(0.25)  # of those that could be judged
    assert (row["step"], row["eval/reward_failures"], row["eval/kl"]) == (7, 1, 1.0)
