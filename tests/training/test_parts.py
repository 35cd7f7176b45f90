"""Adapters and upper layers in every supervised stage: what moves, what stays, what is saved."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from experiments.distill import make_learner as make_distill_learner
from experiments.distill import student_prompts
from rljax.algorithms.reward_model import HEAD
from rljax.errors import UserError
from rljax.experiment import (
    DistillExperiment,
    ModelConfig,
    PreferenceExperiment,
    PretrainExperiment,
    RewardExperiment,
    TextExperiment,
)
from rljax.models import load_pretrained
from rljax.models.lora import LoRAConfig
from rljax.tasks.documents import make_data, read_documents
from rljax.training.flags import load_config
from rljax.training.flags import validate as validate_config
from rljax.training.parts import make_part
from rljax.training.policies import load_start
from rljax.training.preferences import (
    load_preferences,
    make_preference_learner,
    prepare_preferences,
)
from rljax.training.reward_models import make_reward_learner
from rljax.training.texts import make_text_data, make_text_learner
from tests.conftest import quick_jit

STAGES = {
    "sft": TextExperiment,
    "dpo": PreferenceExperiment,
    "kto": PreferenceExperiment,
    "reward_model": RewardExperiment,
    "distill": DistillExperiment,
}
CONFIGS = {"distill": "distill_arithmetic.py:smoke", "kto": "dpo_sentiment.py:smoke-kto"}
PARTS = {
    "lora": {"lora": LoRAConfig(rank=2, alpha=8.0, targets="attention|mlp/up")},
    "layers": {"train_layers": 1},
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder with the stages' data."""
    folder = tmp_path_factory.mktemp("data")
    pairs = [{"prompt": f"say {i}:", "chosen": f" {i}!", "rejected": f" {i}?"} for i in range(30)]
    texts = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in pairs]
    for name, rows in (("pairs", pairs), ("texts", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@functools.lru_cache
def pretrained():
    return load_pretrained("random:tiny-llama")


def learner_of(stage, sources, part):
    """Build a stage's learner that trains a part: the experiment and the learner."""
    name = CONFIGS.get(stage, f"{stage}_sentiment.py:smoke")
    base = load_config(f"configs/{name}", STAGES[stage])
    texts = stage in ("sft", "distill")
    file = sources / ("texts.jsonl" if texts else "pairs.jsonl")
    data = dataclasses.replace(base.data, source=str(file), held_out_fraction=0.3)
    if texts:
        data = dataclasses.replace(data, keep=(), sequence_length=32)
    config = dataclasses.replace(base, data=data, **part)
    validate_config(config)
    model = pretrained()
    if stage == "sft":
        made = make_text_data(config, model, read_documents(config.data))
        return config, make_text_learner(config, model, made)
    if stage in ("dpo", "kto"):
        made = prepare_preferences(config, model, sources)
        return config, make_preference_learner(config, model, made)
    if stage == "reward_model":
        judged = load_preferences(config.data, "pairs", model, 0.0)
        return config, make_reward_learner(config, model, judged, None)
    records = read_documents(config.data)
    made = make_data(records, config.data, model.tokenizer, model.eos_token_ids, context_length=64)
    prompts = student_prompts(config, model, model, records)
    return config, make_distill_learner(config, model, _teacher(), made, prompts)


@functools.lru_cache
def _teacher():
    return load_pretrained("random:tiny-llama:7")


def judge_of(learner):
    """Return a function that gives a state's loss on a held-out batch."""
    compiled, batch = quick_jit(learner.evaluate), next(iter(learner.eval_batches()))

    def judge(state) -> float:
        total, count = compiled(state, batch)["loss"]
        return float(total / count)

    return judge


@pytest.fixture(scope="module")
def full(sources):
    """Return a function that gives a stage's learner of all parameters, and its judge."""

    @functools.lru_cache
    def get(stage):
        learner = learner_of(stage, sources, {})[1]
        return learner, judge_of(learner)

    return get


def size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


CASES = [
    ("lora", "sft"),
    ("layers", "reward_model"),
    *(
        pytest.param(part, stage, marks=pytest.mark.slow)
        for part, stage in [("layers", "sft"), *(("lora", s) for s in STAGES if s != "sft")]
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("part, stage", CASES)
def test_one_update_moves_the_part_and_leaves_the_base(part, stage, sources, full):
    config, learner = learner_of(stage, sources, PARTS[part])
    whole, judge_whole = full(stage)
    judge, start = judge_of(learner), learner.init()
    before = judge(start)
    assert before == pytest.approx(judge_whole(whole.init()), rel=1e-6)
    if stage == "dpo":
        assert before == pytest.approx(np.log(2), abs=1e-5)
    step = 1 if stage == "distill" else 0  # a batch that the student samples
    state, metrics = quick_jit(learner.update)(start, learner.batch(step), jax.random.key(0))
    assert np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, state.base, pretrained().params)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, start.params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(moved):
        bias = path[0].key == HEAD and path[-1].key == "bias"  # pairs read differences alone
        still = bias or path[-1].key == "a"  # b starts at 0: so does the gradient of a
        assert leaf != still, path
    assert size(start.params["policy"]) < size(pretrained().params) / 2
    assert size(state.opt_state) <= 2 * size(start.params) + 8
    merged = make_part(config, pretrained().params).merged(state)
    assert jax.tree.structure(merged["policy"]) == jax.tree.structure(pretrained().params)
    after = judge(state)
    assert judge_whole(state._replace(params=merged, base=())) == pytest.approx(after, rel=1e-5)
    assert after != pytest.approx(before, rel=1e-5)


def test_checkpoints_hold_what_is_trained_and_nothing_else(sources, full):
    _, learner = learner_of("sft", sources, PARTS["lora"])
    state = learner.init()
    saved = learner.saved(state)
    assert not jax.tree.leaves(saved.base)
    jax.tree.map(np.testing.assert_array_equal, learner.restored(saved), state)
    state = full("sft")[0].init()
    assert state.base == ()
    jax.tree.map(np.testing.assert_array_equal, full("sft")[0].saved(state), state)


def test_the_seed_and_every_flag_choose_the_adapters():
    def start(seed=0, **changes):
        lora = dataclasses.replace(PARTS["lora"]["lora"], **changes)
        part = make_part(TextExperiment(lora=lora, seed=seed), pretrained().params)
        return part.policy(), part.trainable.compose

    policy, _ = start()
    rank = {leaf.shape[0] for path, leaf in jax.tree_util.tree_leaves_with_path(policy)
            if path[-1].key == "a"}  # fmt: skip
    assert rank == {2}
    query = policy["layers"]["0"]["attention"]["query"]["a"]
    assert np.any(query != start(seed=1)[0]["layers"]["0"]["attention"]["query"]["a"])
    assert "mlp" not in start(targets="attention")[0]["layers"]["0"]
    moved = jax.tree.map(lambda leaf: leaf + 1, policy)
    one, other = (
        start(alpha=alpha)[1](pretrained().params, moved)["layers"]["0"]["attention"]["query"]
        for alpha in (8.0, 2.0)
    )
    np.testing.assert_allclose(one["lora_b"], 4 * other["lora_b"])


@pytest.mark.parametrize("kind", [TextExperiment, PreferenceExperiment, RewardExperiment])
def test_what_excludes_each_other_is_refused(kind):
    with pytest.raises(ValueError, match=r"train_layers 2 and lora.rank"):
        kind(lora=LoRAConfig(rank=2), train_layers=2).validate()
    with pytest.raises(ValueError, match="train_layers is -1"):
        kind(train_layers=-1).validate()


@pytest.mark.parametrize("part", PARTS)
def test_a_model_from_scratch_is_trained_whole(part):
    with pytest.raises(ValueError, match=r"(lora.rank 2|train_layers) .*from scratch is noise"):
        PretrainExperiment(**PARTS[part]).validate()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"train_layers": 3}, "train_layers is 3, but the model has 2 layers"),
        ({"lora": LoRAConfig(rank=2, targets="atention")}, "matches no linear map"),
        ({"lora": LoRAConfig(rank=2, targets="layers/1/"), "scan": True}, "scan_layers needs"),
    ],
)
def test_what_the_model_lacks_is_said_before_anything_is_read(changes, words):
    model = ModelConfig(source="random:tiny-llama", scan_layers=changes.pop("scan", False))
    with pytest.raises(UserError, match=words):
        load_start(TextExperiment(model=model, **changes))
