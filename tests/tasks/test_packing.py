"""Packing loses nothing, and a packed document is computed as if it stood alone."""

import functools

import jax
import numpy as np
import pytest

from rljax.models.transformer import make_model, token_positions
from rljax.tasks.packing import Document, best_fit, fit_lengths, pack
from tests.conftest import noisy_params, quick_jit, tiny_config

GPT2 = {
    "positions": "learned",
    "norm": "layer",
    "norm_bias": True,
    "gated_mlp": False,
    "activation": "gelu_tanh",
    "num_kv_heads": 4,
    "attention_bias": True,
}
LENGTH = 12


def document(*tokens: int, learnt_from: int = 1) -> Document:
    return Document(list(tokens), [i >= learnt_from for i in range(len(tokens))])


@functools.lru_cache
def documents() -> tuple[Document, ...]:
    rng = np.random.RandomState(0)
    sizes = (5, 12, 3, 4, 2, 7, 3, 4, 6)
    return tuple(document(*map(int, rng.randint(1, 61, size))) for size in sizes)


def unpacked(data):
    """Read the documents back out of their rows."""
    found = []
    for tokens, segments in zip(data.rows.tokens, data.rows.segments, strict=True):
        found += [tuple(tokens[segments == n]) for n in range(1, segments.max() + 1)]
    return sorted(found)


def test_nothing_is_lost_and_rows_are_full():
    data = pack(documents(), LENGTH)
    assert unpacked(data) == sorted(tuple(d.tokens) for d in documents())
    total = sum(len(d.tokens) for d in documents())
    assert len(data) == -(-total // LENGTH)  # here the best possible
    assert data.filled == total / (len(data) * LENGTH)
    assert data.documents == len(documents())
    for segments in data.rows.segments:
        real = segments[segments > 0]
        assert np.all(np.diff(real) >= 0) and np.all(segments[len(real) :] == 0)


def test_the_first_token_of_a_document_is_never_a_target():
    first = Document([1, 2, 3], [True, True, True])
    rows = pack([first, document(4, 5, 6, 7, learnt_from=2)], 8).rows
    np.testing.assert_array_equal(rows.tokens, [[4, 5, 6, 7, 1, 2, 3, 0]])
    np.testing.assert_array_equal(rows.segments, [[1, 1, 1, 1, 2, 2, 2, 0]])
    np.testing.assert_array_equal(rows.targets, [[0, 0, 1, 1, 0, 1, 1, 0]])


def test_best_fit_prefers_the_fullest_bin():
    assert best_fit([6, 7, 3, 4], 10) == [[1, 2], [0, 3]]
    with pytest.raises(ValueError, match="11 fits into no bin of 10"):
        best_fit([11], 10)
    sizes = list(np.random.RandomState(1).randint(1, 50, 400))
    bins = best_fit(sizes, 64)
    assert sorted(i for chosen in bins for i in chosen) == list(range(400))
    assert max(sum(sizes[i] for i in chosen) for chosen in bins) <= 64
    assert len(bins) <= 1.05 * sum(sizes) / 64 + 1


def test_long_documents():
    long, short = document(*range(1, 10), learnt_from=6), document(1, 2)
    assert fit_lengths([long, short], 4, "drop") == ([short], 1)
    assert fit_lengths([long, short], 4, "truncate") == ([short], 1)  # nothing learnt is left
    pieces, count = fit_lengths([long, short], 4, "split")
    assert [list(piece.tokens) for piece in pieces] == [[5, 6, 7, 8], [1, 2]] and count == 1
    pieces, _ = fit_lengths([document(*range(1, 10))], 4, "truncate")
    assert [list(piece.tokens) for piece in pieces] == [[1, 2, 3, 4]]


def test_batches():
    data = pack(documents(), LENGTH)
    again = [data.batch(step, batch_size=3, seed=1) for step in (5, 5, 6)]
    np.testing.assert_array_equal(again[0].tokens, again[1].tokens)
    assert np.any(again[0].tokens != again[2].tokens)
    assert np.any(data.batch(5, batch_size=3, seed=2).tokens != again[0].tokens)
    held = list(data.batches(3))
    assert {batch.tokens.shape for batch in held} == {(3, LENGTH)}
    stacked = np.concatenate([batch.tokens for batch in held])
    np.testing.assert_array_equal(stacked[: len(data)], data.rows.tokens)
    assert not np.concatenate([batch.targets for batch in held])[len(data) :].any()


def test_positions_restart_with_each_segment():
    segments = np.asarray([[1, 1, 2, 2, 2, 0], [0, 0, 1, 1, 3, 3]])
    positions = token_positions(segments > 0, segments)
    np.testing.assert_array_equal(positions[0, :5], [0, 1, 0, 1, 2])
    np.testing.assert_array_equal(positions[1, 2:], [0, 1, 0, 1])


@pytest.mark.parametrize(
    "options, build",
    [
        ({}, {}),
        (GPT2, {}),
        pytest.param(
            {"sliding_window": 3, "layer_windows": (True, False)}, {}, marks=pytest.mark.slow
        ),
        ({}, {"scan_layers": True, "remat": "layers"}),
    ],
    ids=["llama", "gpt2", "sliding", "scan and remat"],
)
def test_packed_logits_equal_those_of_documents_alone(options, build):
    model = make_model(tiny_config(**options), **build)
    params = noisy_params(model)
    rows = pack(documents(), LENGTH).rows
    apply = quick_jit(model.apply)
    packed = apply(params, rows.tokens, rows.segments > 0, rows.segments)
    # The documents one in a row, in chunks of as many rows.
    places = [
        (row, np.flatnonzero(rows.segments[row] == number))
        for row in range(len(rows.tokens))
        for number in range(1, rows.segments[row].max() + 1)
    ]
    alone = np.zeros((len(rows.tokens) * 3, LENGTH), np.int32)
    for index, (row, slots) in enumerate(places):
        alone[index, : len(slots)] = rows.tokens[row, slots]
    plain = np.concatenate([apply(params, chunk, chunk > 0) for chunk in np.split(alone, 3)])
    for index, (row, slots) in enumerate(places):
        np.testing.assert_allclose(packed[row, slots], plain[index, : len(slots)], atol=1e-5)
    crossed = apply(params, rows.tokens, rows.segments > 0, np.ones_like(rows.segments))
    assert np.max(np.abs(crossed - packed)) > 1e-2


def test_no_gradient_crosses_a_document():
    model = make_model(tiny_config())
    params = noisy_params(model)
    rows = pack(documents(), LENGTH).rows
    row = int(np.argmax(rows.segments.max(axis=1)))
    tokens, segments = rows.tokens[row : row + 1], rows.segments[row : row + 1]

    @quick_jit
    def influence(table):
        def first_document(table):
            hidden = model.hidden(
                params | {"embed": {"embedding": table}}, tokens, segments > 0, segments
            )
            return (hidden[0] * (segments[0] == 2)[:, None]).sum()

        return jax.grad(first_document)(table)

    moved = np.any(np.asarray(influence(params["embed"]["embedding"])) != 0, axis=1)
    others = set(tokens[0][segments[0] != 2]) - set(tokens[0][segments[0] == 2])
    assert moved[tokens[0][segments[0] == 2]].all()
    assert others and not moved[sorted(others)].any()
