"""The yardstick is a rate, and long enough to be one."""

import jax

from rljax.training.throughput import copy_rate, matmul_rate


def test_the_matrix_grows_until_the_product_takes_long_enough(monkeypatch):
    sizes = []
    normal = jax.random.normal

    def watched(key, shape, dtype):
        sizes.append(shape[0])
        return normal(key, shape, dtype)

    monkeypatch.setattr(jax.random, "normal", watched)
    assert matmul_rate(size=32, repeats=2, shortest_s=0) > 0
    assert sizes == [32]
    assert matmul_rate(size=32, repeats=2, shortest_s=100, largest=128) > 0
    assert sizes == [32, 32, 64, 128]


def test_the_copy_grows_as_well(monkeypatch):
    sizes = []
    zeros = jax.numpy.zeros

    def watched(shape, kind):
        sizes.append(shape)
        return zeros(shape, kind)

    monkeypatch.setattr(jax.numpy, "zeros", watched)
    assert 1e7 < copy_rate(megabytes=1, repeats=2, shortest_s=100, largest=4) < 1e13
    assert sizes == [2**18, 2**19, 2**20]
