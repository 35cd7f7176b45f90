"""Adapters in peft's files: written, read back, and (with peft installed) the same logits there."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import load_pretrained, save_pretrained
from rljax.models.lora import LoRAConfig, combine, init_lora, merge
from rljax.models.peft import CONFIG_FILE, WEIGHTS_FILE, Adapters, load_peft, save_peft
from rljax.models.safetensors_io import read_header
from rljax.models.weights import WeightsError
from tests.conftest import quick_jit
from tests.goldens.golden import load_golden, write_golden

CASES = {
    "llama": "attention|mlp",
    "gpt2": "layers/1/|0/attention/(query|value)|0/mlp/up",
    "gpt_neox": "attention/(key|value|out)",
}


def make_adapters(pretrained, targets, rank=2):
    adapters = init_lora(jax.random.key(0), pretrained.params, LoRAConfig(rank, targets=targets))
    leaves, kind = jax.tree.flatten(adapters)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return Adapters(jax.tree.unflatten(kind, drawn), 1.5)


def same_logits(pretrained, left, right):
    """Adapters as merged kernels: quicker than two compilations."""
    for a, b in zip(
        jax.tree.leaves(merge(combine(pretrained.params, *left))),
        jax.tree.leaves(merge(combine(pretrained.params, *right))),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    pretrained = load_pretrained(write_golden(request.param, folder / "base"))
    adapters = make_adapters(pretrained, CASES[request.param])
    where = request.param, pretrained.model.config
    saved = save_peft(folder / "adapters", *where, adapters, base=str(folder / "base"))
    return where, pretrained, adapters, saved


def test_what_is_written_is_read_back(case):
    where, pretrained, adapters, saved = case
    found = load_peft(saved, *where)
    assert found.scale == pytest.approx(1.5)
    assert jax.tree.structure(found.weights) == jax.tree.structure(adapters.weights)
    for a, b in zip(jax.tree.leaves(found.weights), jax.tree.leaves(adapters.weights), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    again = save_peft(saved, *where, found, base="elsewhere")
    same_logits(pretrained, load_peft(again, *where), adapters)


@pytest.mark.parity
def test_peft_reads_what_is_written(case, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    (name, _), pretrained, adapters, saved = case
    golden = load_golden(name)
    base = json.loads((saved / CONFIG_FILE).read_text())["base_model_name_or_path"]
    base = base if base != "elsewhere" else str(saved.parent / "base")
    combined = combine(pretrained.params, *adapters)
    ours = np.asarray(quick_jit(pretrained.model.apply)(combined, golden.tokens, golden.mask))
    assert np.abs(ours - golden.logits)[golden.mask].max() > 0.1

    def logits(model):
        tokens, mask = torch.tensor(golden.tokens), torch.tensor(golden.mask)
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            return model(tokens.long(), attention_mask=mask, position_ids=positions).logits.numpy()

    def read(path):
        return AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()

    theirs = peft.PeftModel.from_pretrained(read(base), saved)
    assert np.abs(logits(theirs) - ours)[golden.mask].max() <= 1e-4
    merged = dataclasses.replace(pretrained, params=merge(combined))
    theirs = read(save_pretrained(tmp_path / "merged", merged))
    assert np.abs(logits(theirs) - ours)[golden.mask].max() <= 1e-4


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_what_peft_writes_is_read(name, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    base = write_golden(name, tmp_path / "base")
    pretrained = load_pretrained(base)
    targets = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}
    settings = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=name == "llama",
        target_modules=targets.get(name, ["query_key_value"]),
        rank_pattern={} if name == "llama" else {".*1.*(c_attn|query_key_value)": 3},
        fan_in_fan_out=name == "gpt2",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").eval()
    model = peft.get_peft_model(model, settings)
    model.save_pretrained(tmp_path / "adapters")
    golden = load_golden(name)
    mask = torch.tensor(golden.mask)
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        tokens = torch.tensor(golden.tokens).long()
        theirs = model(tokens, attention_mask=mask, position_ids=positions).logits.numpy()
    found = load_peft(tmp_path / "adapters", name, pretrained.model.config)
    combined = combine(pretrained.params, *found)
    ours = quick_jit(pretrained.model.apply)(combined, golden.tokens, golden.mask)
    assert np.abs(theirs - golden.logits)[golden.mask].max() > 0.1
    assert np.abs(theirs - ours)[golden.mask].max() <= 2e-4


def test_fused_modules_hold_the_sum_of_ranks(tmp_path):
    pretrained = load_pretrained(write_golden("gpt2", tmp_path / "base"))
    adapters = make_adapters(pretrained, "attention/(query|value)")
    saved = save_peft(tmp_path / "a", "gpt2", pretrained.model.config, adapters, base="base")
    shapes = {name: t.shape for name, t in read_header(saved / WEIGHTS_FILE).items()}
    hidden = pretrained.model.config.hidden_size
    start = "base_model.model.transformer.h.0.attn.c_attn.lora_"
    assert shapes[f"{start}A.weight"] == (4, hidden)
    assert shapes[f"{start}B.weight"] == (3 * hidden, 4)
    settings = json.loads((saved / CONFIG_FILE).read_text())
    assert settings["r"] == 4 and settings["lora_alpha"] == 6.0
    assert settings["target_modules"] == ["c_attn"] and settings["fan_in_fan_out"]
    fresh = Adapters(jax.tree.map(jnp.zeros_like, adapters.weights), 1.0)
    again = save_peft(tmp_path / "b", "gpt2", pretrained.model.config, fresh, base="base")
    same_logits(pretrained, load_peft(again, "gpt2", pretrained.model.config), fresh)


def edit_settings(folder, **changes):
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"peft_type": "IA3"}, "adapter_config.json: peft_type is not LORA"),
        ({"use_dora": True}, "adapter_config.json: use_dora is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is not supported"),
        ({"bias": "all"}, "bias 'all' is not supported"),
        ({"r": 5}, r"layers.0.*has matrices .*expected \{'A': \(5"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, changes, problem):
    pretrained = load_pretrained(write_golden("llama", tmp_path / "base"))
    where = "llama", pretrained.model.config
    adapters = make_adapters(pretrained, "layers/0/attention/query")
    saved = save_peft(tmp_path / "adapters", *where, adapters, base="base")
    edit_settings(saved, **changes)
    with pytest.raises(WeightsError, match=problem):
        load_peft(saved, *where)


def test_wrong_places(tmp_path):
    pretrained = load_pretrained(write_golden("llama", tmp_path / "base"))
    config = pretrained.model.config
    adapters = make_adapters(pretrained, "mlp/gate")
    with pytest.raises(WeightsError, match=r"no place for adapters in a gpt2 model: .*mlp.gate"):
        save_peft(tmp_path / "x", "gpt2", config, adapters, base="base")
    with pytest.raises(FileExistsError, match="not empty"):
        save_peft(tmp_path / "base", "llama", config, adapters, base="base")
    with pytest.raises(FileNotFoundError, match="no PEFT adapters"):
        load_peft(tmp_path / "base", "llama", config)
    saved = save_peft(tmp_path / "ok", "llama", config, adapters, base="base")
    other = load_pretrained(write_golden("gpt_neox", tmp_path / "neox")).model.config
    with pytest.raises(WeightsError, match=r"gate_proj.* is no adapter .*gpt_neox"):
        load_peft(saved, "gpt_neox", other)
    (saved / CONFIG_FILE).write_text("[")
    with pytest.raises(WeightsError, match="not a JSON object"):
        load_peft(saved, "llama", config)
