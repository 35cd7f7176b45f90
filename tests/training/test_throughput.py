"""The yardstick is a rate, and long enough to be one."""

import jax

from rljax.training.throughput import matmul_rate


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
