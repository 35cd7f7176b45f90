"""The config files that are shipped: all can be started, and named methods are what papers say."""

from dataclasses import replace

import pytest

from rljax.errors import UserError
from rljax.experiment import GRPOExperiment, PPOExperiment, TextExperiment
from rljax.training.flags import load_config, load_file, repository_root, validate
from rljax.training.optimizer import OptimizerConfig

CONFIGS = repository_root() / "configs"
FILES = sorted(file for file in CONFIGS.rglob("*.py") if file.parent.name != "ablations")
"""Those of configs/ablations/ hold sweeps: tests/sweeps/test_ablations.py."""

PUBLISHED = {
    # Shao et al. 2024, section 4.1: group mean and deviation, sequence means, k3 in the loss
    "grpo": {
        "advantage": "group_std", "objective": "clip", "ratio": "token", "clip_eps": 0.2,
        "loss_aggregation": "sequence", "kl.coef": 0.04, "kl.estimator": "k3", "kl_place": "loss",
    },
    # Liu et al. 2025: neither deviation nor length divides; no KL; one update a batch
    "dr_grpo": {
        "advantage": "group_mean", "loss_aggregation": "constant", "kl.coef": 0.0,
        "num_epochs": 1, "num_minibatches": 1,
    },
    # Yu et al. 2025: clip-higher, token mean, refilled batches, no KL
    "dapo": {
        "advantage": "group_std", "clip_eps": 0.2, "clip_eps_high": 0.28,
        "loss_aggregation": "token", "kl.coef": 0.0,
    },
    # Zheng et al. 2025
    "gspo": {
        "ratio": "sequence", "clip_eps": 3e-4, "clip_eps_high": 4e-4, "num_minibatches": 4,
        "loss_aggregation": "sequence", "kl.coef": 0.0,
    },
    # MiniMax-M1 2025 with ScaleRL's upper bound
    "cispo": {"objective": "cispo", "clip_eps_high": 5.0, "loss_aggregation": "token"},
    # Ahmadian et al. 2024, section 4: whole completions, KL in the reward, two steps a batch
    "rloo": {
        "advantage": "leave_one_out", "objective": "reinforce", "loss_aggregation": "constant",
        "kl.coef": 0.03, "kl.estimator": "k1", "kl_place": "score", "num_minibatches": 2,
        "samples_per_prompt": 4,
    },
    "reinforce": {
        "advantage": "batch_mean", "objective": "reinforce", "loss_aggregation": "constant",
        "kl.estimator": "k1", "kl_place": "score", "samples_per_prompt": 1,
    },
    # Li et al. 2024: one sample a prompt against the greedy completion
    "remax": {
        "advantage": "greedy", "objective": "reinforce", "loss_aggregation": "constant",
        "samples_per_prompt": 1,
    },
    # Hu 2025: one sample, k1 on the tokens, whitened over the batch
    "reinforce_pp": {
        "advantage": "none", "whiten_advantages": True, "samples_per_prompt": 1,
        "kl.estimator": "k1", "kl_place": "tokens",
    },
    # its second form: the group's mean, whitened over the batch, k2 in the loss
    "reinforce_pp_baseline": {
        "advantage": "group_mean", "whiten_advantages": True, "kl.estimator": "k2",
        "kl_place": "loss",
    },
    # Dong et al. 2023
    "raft": {"advantage": "best", "objective": "reinforce", "kl.coef": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_and_variant_can_be_started(path):
    file = load_file(path)
    for config in (file.config, *file.variants.values()):
        validate(config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_named_method_is_the_published_one(name):
    file = "configs/grpo_sentiment.py" + ("" if name == "grpo" else f":{name}")
    chosen = load_config(file, GRPOExperiment).grpo
    for path, expected in PUBLISHED[name].items():
        value = chosen
        for part in path.split("."):
            value = getattr(value, part)
        assert value == expected, path


def test_nlpo_is_the_published_one():
    """Ramamurthy et al. 2022 in RL4LMs, on IMDB; all but the mask is PPO's."""
    nlpo = load_config("configs/ppo_sentiment.py:nlpo", PPOExperiment)
    ppo = load_config("configs/ppo_sentiment.py", PPOExperiment)
    flags = {"mask_top_p": 0.9, "mask_min_tokens": 100, "mask_sync_every": 5}
    assert nlpo == replace(ppo, ppo=replace(ppo.ppo, **flags))


def test_every_variant_is_told_apart_from_the_others():
    file = load_file(repository_root() / "configs" / "grpo_sentiment.py")
    assert set(file.variants) == set(PUBLISHED) - {"grpo"} | {"smoke"}
    assert file.variants["dapo"].grpo.dynamic_sampling > 0
    choices = [file.config.grpo, *(config.grpo for config in file.variants.values())]
    assert len(set(choices)) == len(choices)


@pytest.mark.parametrize("kind", [PPOExperiment, TextExperiment])
def test_a_warm_up_that_never_ends_is_refused_before_anything_is_loaded(kind):
    optimizer = OptimizerConfig(warmup_steps=5)
    validate(kind(optimizer=optimizer, steps=6))
    with pytest.raises(UserError, match="warmup_steps 5 must be fewer than the 5 training steps"):
        validate(kind(optimizer=optimizer, steps=5))
