"""A language model behind the protocol of texts: the same text however it is asked."""

import jax
import pytest

from rljax.errors import UserError
from rljax.rollout.distribution import SamplingConfig
from rljax.specs import SpecError
from rljax.tasks import TaskConfig, make_task
from rljax.training.language_policy import LanguageModelPolicy
from rljax.training.policies import load_model
from rljax.training.text_policies import Setting, make_text_policies

TEXTS = ["one is here", "two", "three is a longer one"]


@pytest.fixture(scope="module")
def pretrained():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield load_model("random:tiny-llama")
    jax.config.update("jax_disable_most_optimizations", before)


def make(pretrained, **changes):
    sampling = SamplingConfig(max_new_tokens=6, temperature=1.0)
    settings = {"batch_size": 4, "multiple": 16, "seed": 3} | changes
    return LanguageModelPolicy(pretrained, sampling, pretrained.tokenizer.encode, **settings)


def test_the_same_texts_in_one_call_or_in_two(pretrained):
    whole = make(pretrained).act(TEXTS)
    parted = make(pretrained)
    assert parted.act(TEXTS[:1]) + parted.act(TEXTS[1:]) == whole
    assert make(pretrained, seed=4).act(TEXTS) != whole
    assert parted.act(TEXTS) != whole  # it goes on with other noise
    assert make(pretrained).act([]) == []


def test_an_observation_without_room_is_named(pretrained):
    policy = make(pretrained)
    with pytest.raises(UserError, match="leaves room for 1 to .* beside the completion: 'aaaa"):
        policy.act(["fine", "a" * 2000])


def test_what_does_not_fit_a_model_is_said_before_anything_acts(pretrained, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"prompt number {i}" for i in range(20)))
    config = TaskConfig(prompts=str(path), prompt_tokens=None, reward="sentiment")
    pytest.importorskip("vaderSentiment")
    task = make_task(config, pretrained.tokenizer, max_prompt_tokens=100)
    setting = Setting(task, config, SamplingConfig(), pretrained, None)
    for spec, message in [
        ("model?temprature=1", "there is no setting 'temprature' .did you mean 'temperature'"),
        ("model?slots=32", "slots"),
        ("model?checkpoint=best", "checkpoint is of 'run:DIRECTORY'"),
        ("model?system_prompt=a", "system_prompt needs chat"),
        ("reference", "give one of them"),
        ("run:x?checkpoint=first", "checkpoint is 'first'; it must be last, best or a step"),
    ]:
        with pytest.raises(SpecError, match=message):
            make_text_policies([spec], setting)
    with pytest.raises(SpecError, match="that of --model or --run"):
        make_text_policies(["model"], Setting(task, config, SamplingConfig(), None, None))
