"""What the on-policy loop does for an algorithm: adapters, refilled batches, greedy baselines."""

import json

import jax
import numpy as np
import pytest

from rljax.models import load_pretrained
from rljax.training.checkpoint import Checkpoints
from rljax.training.trained import load_trained
from tests.experiments.conftest import ROOT

pytestmark = pytest.mark.slow  # whole runs, each with programs of its own to compile

REWARD = """
def coarse(prompts, completions):
    return [float(sum(text.encode()) % 2) for text in completions]
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory, script):
    """Return a function that runs a script for a few tiny steps: its directory."""
    folder = tmp_path_factory.mktemp("loop")
    rows = [{"prompt": f"{i:02d} is a prompt"} for i in range(60)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(REWARD)

    def run(name, workdir, **flags):
        given = {
            "config": f"{ROOT}/configs/{name}_sentiment.py:smoke",
            "workdir": folder / workdir,
            "task.prompts": folder / "prompts.jsonl",
            "task.reward": f"{folder}/reward.py:coarse",
            "task.prompt-tokens": 8,
            "task.min-prompt-tokens": 4,
            "sampling.max-new-tokens": 4,
            "steps": 2,
            "checkpoint-every": 1,
            "eval-prompts": 0,
            "optimizer.learning-rate": 0.01,
            "optimizer.schedule": "constant",
        } | flags
        script(name).main([part for k, v in given.items() for part in (f"--{k}", str(v))])
        return folder / workdir

    return run


def metrics_of(directory) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").open()]


def test_slots_train_the_same(start):
    """A shared critic's values come through the slots too."""
    whole, queued = (start("ppo", f"slots{n}", **{"sampling.slots": n}) for n in (None, 3))
    for one, other in zip(metrics_of(whole), metrics_of(queued), strict=True):
        for name in ("objective/scores", "completion/length", "policy/loss", "value/loss"):
            assert one.get(name) == pytest.approx(other.get(name), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("part", [{"lora.rank": 2}, {"train-layers": 1}], ids=str)
def test_only_a_part_is_trained_saved_and_loaded(start, part):
    name = next(iter(part))
    directory = start("ppo", name, **part)
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        saved = checkpoints.arrays(2)
    policy = [path for path in saved if path.startswith("params.policy")]
    base = load_pretrained("random:tiny-llama").params
    assert 0 < len(policy) < len(jax.tree.leaves(base))
    assert not any(path.startswith("ref_params") for path in saved)
    trained = load_trained(directory).pretrained.params
    assert jax.tree.structure(trained) == jax.tree.structure(base)
    changed = {
        jax.tree_util.keystr(path)
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(trained), jax.tree.leaves(base), strict=True
        )
        if not np.array_equal(a, b)
    }
    assert changed and not any("embed" in path for path in changed)


NLPO = {"config": f"{ROOT}/configs/ppo_sentiment.py:smoke-nlpo"}


@pytest.mark.parametrize("flags", [{"lora.rank": 2}, NLPO], ids=["lora", "nlpo"])
def test_runs_resume_bit_for_bit(start, flags):
    """Adapters without a reference of their own; a masking policy that is 0 or 1 steps old."""
    name = next(iter(flags))
    start("ppo", f"parts-{name}", **flags, steps=1)
    parts = metrics_of(start("ppo", f"parts-{name}", **flags, steps=3))
    whole = metrics_of(start("ppo", f"whole-{name}", **flags, steps=3))
    assert len(parts) == 3
    for a, b in zip(parts, whole, strict=True):
        exact = {k for k in a if not k.startswith(("time/", "perf/"))}
        assert {k: a[k] for k in exact} == {k: b[k] for k in exact}


def test_groups_of_equal_scores_are_replaced(start):
    flags = {"grpo.batch-size": 8, "grpo.samples-per-prompt": 2}
    plain = metrics_of(start("grpo", "plain", **flags))
    filled = metrics_of(start("grpo", "filled", **flags, **{"grpo.dynamic-sampling": 6}))
    assert all("objective/samples" not in row for row in plain)
    assert plain[0]["objective/informative_groups"] < 1
    for row in filled:
        assert row["objective/samples"] % 8 == 0
        assert row["objective/informative_groups"] == 1 or row["objective/samples"] == 56
    assert filled[0]["objective/informative_groups"] > plain[0]["objective/informative_groups"]
    assert filled[0]["health/sampler_logprob_gap"] < 1e-5  # re-padded prompts keep positions


def test_the_greedy_baseline_is_sampled(start):
    flags = {"grpo.samples-per-prompt": 1, "grpo.advantage": "greedy"}
    rows = metrics_of(start("grpo", "greedy", **flags))
    assert len(rows) == 2 and all(np.isfinite(row["policy/loss"]) for row in rows)


def test_the_reference_moves_when_asked(start):
    flags = {"grpo.batch-size": 8, "grpo.samples-per-prompt": 2}
    sync = {"grpo.ref-sync-every": 1, "grpo.ref-sync-mix": 1.0}
    still = metrics_of(start("grpo", "still", **flags))
    reset = metrics_of(start("grpo", "reset", **flags, **sync))
    assert abs(still[1]["objective/kl"]) > 1e-3
    assert abs(reset[1]["objective/kl"]) < 1e-5  # the reference is the policy again


def policies(directory) -> tuple[dict, dict]:
    """The policy and the masking policy in the checkpoint of step 2."""
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        saved = checkpoints.arrays(2)
        places = {"params": {"policy": "params.policy."}, "mask_params": "mask_params."}
        like = jax.tree.map(lambda start: arrays_under(saved, start), places)
        found = checkpoints.restore(like, step=2, partial=True)
    assert found is not None
    return found[1]["params"]["policy"], found[1]["mask_params"]


def arrays_under(saved, start) -> dict:
    return {
        path.removeprefix(start): jax.ShapeDtypeStruct(array["shape"], array["dtype"])
        for path, array in saved.items()
        if path.startswith(start)
    }


@pytest.mark.parametrize("part", [{}, {"lora.rank": 2}], ids=["whole", "lora"])
def test_the_masking_policy_follows_the_policy(start, part):
    """Synchronised every step, or never: what masks the second step is not the same."""
    each, later = (
        start("ppo", f"mask-{len(part)}-{every}", **NLPO, **part, **{"ppo.mask-sync-every": every})
        for every in (1, 0)
    )
    policy, masking = policies(each)
    assert policy and policy.keys() == masking.keys()
    assert all(np.array_equal(policy[name], masking[name]) for name in policy)
    policy, masking = policies(later)
    assert any(not np.array_equal(policy[name], masking[name]) for name in policy)
    first, second = zip(metrics_of(each), metrics_of(later), strict=True)
    for name in ("policy/loss", "policy/allowed_tokens"):
        assert first[0][name] == first[1][name]
        assert second[0][name] != second[1][name]
    for row in (*first, *second):
        assert row["health/sampler_logprob_gap"] < 1e-5
        assert 100 <= row["policy/allowed_tokens"] < 259
    assert abs(first[0]["objective/kl"]) < 1e-5 < abs(second[0]["objective/kl"])


def test_the_policy_of_a_masked_run_stands_alone(start, script, tmp_path, capsys):
    directory = start("ppo", "mask-alone", **NLPO, **{"eval-prompts": 4})
    script("evaluate").main(["--run", str(directory), "--num-prompts", "4"])
    assert "without the action mask" in capsys.readouterr().out
    script("generate").main(["--run", str(directory), "--prompt", "01 is a prompt"])
    script("export").main(["--run", str(directory), "--out", str(tmp_path / "model")])
    load_pretrained(str(tmp_path / "model"))


def test_a_mask_of_the_whole_vocabulary_is_refused(fails):
    message = fails("ppo", "--config", NLPO["config"], "--ppo.mask-min-tokens", 259)
    assert "mask_min_tokens is 259, but the model has only 259 tokens" in message


def test_the_reference_of_adapters_cannot_move(fails):
    message = fails(
        "ppo", "--config", f"{ROOT}/configs/ppo_sentiment.py:smoke",
        "--lora.rank", 2, "--ppo.ref-sync-every", 1,
    )  # fmt: skip
    assert "ref_sync_every 1 moves the reference" in message
