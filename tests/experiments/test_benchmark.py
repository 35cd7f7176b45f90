"""The benchmark measures what it says, on the functions that training runs."""

import json
import math

import pytest

from rljax.models import load_pretrained, save_pretrained
from rljax.models.architectures import SHAPES
from rljax.models.flops import layer_parameters
from rljax.models.loading import parameter_shapes

SIZES = ["--batch", "2", "--prompt", "6", "--new", "4", "--repeats", "2"]


def numbers(script, tmp_path, *argv: str) -> dict:
    file = tmp_path / "numbers.json"
    script("benchmark").main([*SIZES, "--json", str(file), *argv])
    return json.loads(file.read_text())


@pytest.mark.slow
def test_every_part_is_measured(script, tmp_path, capsys):
    measured = numbers(script, tmp_path, "--model", "random:tiny-gpt2", "--minibatches", "2")
    assert list(measured["results"]) == ["prefill", "decode", "score", "update"]
    tokens = {"prefill": 12, "decode": 8, "score": 20, "update": 20}
    for name, row in measured["results"].items():
        assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
        assert row["tokens_per_s"] * row["median_s"] == pytest.approx(tokens[name])
        assert row["compile_s"] > 0 and row["first_call_s"] > 0 and row["peak_rss_mb"] > 0
        share = row["flops_per_s"] / measured["matmul_flops_per_s"]
        assert row["share_of_matmul"] == pytest.approx(share) and share < 1
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in tokens) and "matrix product" in out


@pytest.mark.slow
def test_slots_are_compared_with_the_batch(script, tmp_path, capsys):
    sizes = ["--batch", "12", "--new", "16", "--parts", "prefill", "--slots", "3"]
    queue = numbers(script, tmp_path, "--model", "shape:tiny-gpt2", *sizes)["slots"]
    assert 2 < queue["mean_length"] < 6 and queue["same_share"] == 1
    for name in ("ratios", "batch_ratios"):
        assert len(queue[name]) == 2 and all(ratio > 0 for ratio in queue[name])
    rates = [queue[f"{name}_tokens_per_s"] for name in ("plain", "batches", "slots")]
    assert min(rates) > 0 and len(set(rates)) == 3
    assert "through 3 slots" in capsys.readouterr().out


@pytest.mark.slow
def test_the_gpu_preset_is_tried_out_at_a_small_size(script, tmp_path, capsys):
    """Its flags hold where no others are given: bfloat16, fused attention, 8 parts."""
    tiny = ["--preset", "gpu", "--model", "shape:tiny-llama", "--batch", "16"]
    measured = numbers(script, tmp_path, *tiny)
    flags = measured["flags"]
    assert (flags["dtype"], flags["attention"], flags["accumulation"]) == ("bfloat16", "fused", 8)
    assert (flags["batch"], flags["new"], flags["model"]) == (16, 4, "shape:tiny-llama")
    rows = measured["results"]
    if (seconds := rows["decode"]["median_s"] - rows["prefill"]["median_s"]) > 0:
        config = SHAPES["tiny-llama"]
        weights = 2 * layer_parameters(config) + 64 * 259
        read = 2 * (weights + 2 * 2 * 2 * 16 * (16 * 6 + 16 * 2))  # K and V, 2 layers, 2 heads
        assert measured["decode_bytes_per_s"] == pytest.approx(3 * read / seconds)
        assert "decoding reads at" in capsys.readouterr().out
    assert measured["copy_bytes_per_s"] > 1e8


def test_the_gpu_preset_says_what_it_needs(fails, script):
    message = fails("benchmark", "--preset", "gpu")
    assert "found none here" in message and "--model shape:tiny-llama" in message
    module = script("benchmark")
    assert module.parse(["--preset", "gpu", "--batch", "16"]).batch == 16
    assert module.parse(["--preset", "gpu"]).batch == 64 and module.parse([]).batch == 16
    shapes = parameter_shapes(SHAPES["llama-3.2-1b"])
    assert sum(math.prod(shape) for shape in shapes.values()) == 1_235_814_400


def test_slots_need_a_queue_and_ends(script):
    benchmark = script("benchmark").Benchmark
    cases = (
        ({"batch": 3}, "slots is 3"),
        ({"batch": 12, "new": 4}, "new is 4"),
        ({"batch": 16}, "slots 3 must divide batch 16"),
        ({"batch": 12, "group": 2}, "slots 3 must .* a multiple of group 2"),
    )
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            benchmark(slots=3, **changes).validate()


def test_the_work_is_two_flops_a_weight_and_token(script):
    module = script("benchmark")
    config = SHAPES["tiny-gpt2"]
    flags = module.Benchmark(batch=2, prompt=6, new=4)
    work = module.part_work(flags, config)
    layers = config.num_layers * layer_parameters(config)
    assert layers == 4 * 12 * 128 * 128
    # A token of 9 sees 5 on average: a product of 128 numbers for the score, one for the sum.
    attention = 4 * (2 * 2 * 128) * 5
    expected = 2 * (9 * (2 * layers + attention) + 4 * 2 * 128 * 256)
    # Of 5 prompt tokens, which see 3.5, nothing reads more than keys and values of the last layer.
    last = 2 * (12 * 128 * 128 - 2 * 128 * 128) + 4 * 128 * 3.5
    expected -= 2 * 5 * last
    assert work["score"] == (20, expected) and work["decode"] == (8, expected)
    assert work["update"] == (20, 3 * expected)


@pytest.mark.slow
def test_a_shape_by_name_and_from_a_config(script, tmp_path):
    module = script("benchmark")
    _, params = module.load(module.Benchmark(model="shape:tiny-gpt2"))
    assert params["embed"]["embedding"].shape == (256, 128)
    pretrained = load_pretrained("random:tiny-llama")
    save_pretrained(tmp_path / "model", pretrained)
    model, _ = module.load(module.Benchmark(model=str(tmp_path / "model" / "config.json")))
    assert model.config == pretrained.model.config
    # SmolLM2-135M has 134,515,008 parameters, GPT-2 124,439,808.
    sizes = {"smollm2-135m": 134_515_008, "gpt2": 124_439_808}
    for name, size in sizes.items():
        shapes = parameter_shapes(SHAPES[name])
        assert sum(math.prod(shape) for shape in shapes.values()) == size


def test_what_is_wrong_is_said(fails, tmp_path):
    assert "there is no shape 'huge'; known: smollm2-135m" in fails(
        "benchmark", "--model", "shape:huge"
    )
    assert "cannot be read" in fails("benchmark", "--model", tmp_path / "config.json")
    assert "multiple of minibatches" in fails("benchmark", "--batch", 3, "--minibatches", 2)
    tiny = ["--model", "shape:tiny-gpt2"]
    assert "context is 256" in fails("benchmark", *tiny, "--prompt", 200, "--new", 100)
    assert "repeats is 0" in fails("benchmark", *tiny, "--repeats", 0)


@pytest.mark.slow
def test_fused_training_is_measured(script, tmp_path, capsys, quick_programs):
    file = tmp_path / "fused.json"
    sizes = ["--batch", "16", "--new", "2", "--steps", "1", "--seeds", "2", "--repeats", "1"]
    script("benchmark_fused").main([*sizes, "--json", str(file)])
    rows = json.loads(file.read_text())["results"]
    assert list(rows) == ["loop", "fused", "one by one", "vmap", "map"]
    for row in rows.values():
        assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"] and row["compile_s"] > 0
    assert rows["vmap"]["ratio"] == pytest.approx(
        rows["vmap"]["median_s"] / rows["one by one"]["median_s"]
    )
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in rows)


def test_what_cannot_be_measured_fused_is_said(fails):
    assert "batch is 8; it must be a multiple of 16" in fails("benchmark_fused", "--batch", 8)
    assert "repeats is 0" in fails("benchmark_fused", "--repeats", 0)
    assert "devices 3 does not divide seeds 8" in fails("benchmark_fused", "--devices", 3)


@pytest.mark.slow
def test_few_widths_are_compared_with_the_whole_one(script, tmp_path, capsys):
    file = tmp_path / "numbers.json"
    sizes = ["--model", "shape:tiny-gpt2", "--batch", "4", "--accumulation", "2", "--repeats", "1"]
    script("benchmark_buckets").main([*sizes, "--new", "16", "--group", "2", "--json", str(file)])
    ways = json.loads(file.read_text())["ways"]
    assert list(ways) == ["whole", "parts", "buckets"]
    assert ways["whole"]["fill"] == ways["parts"]["fill"] < ways["buckets"]["fill"]
    assert ways["whole"]["faster"] == 1 and "buckets" in capsys.readouterr().out
