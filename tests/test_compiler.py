"""Options of the compiler."""

import jax
import jax.numpy as jnp
import pytest

from rljax import compiler


@pytest.fixture
def fresh():
    """Ask the compiler anew, and forget the answer."""
    compiler.cpu_options.cache_clear()
    yield
    compiler.cpu_options.cache_clear()


def test_the_whole_program_is_compiled_with_them_and_a_part_with_its_whole():
    double = compiler.jit(lambda x: 2 * x, platform="cpu")
    assert double(jnp.float32(2)) == 4
    assert jax.jit(lambda x: double(x) + 1)(jnp.float32(2)) == 5
    assert jax.grad(lambda x: double(x))(jnp.float32(2)) == 2


def test_arguments_of_jit_are_passed_on():
    add = compiler.jit(lambda x, n: x + n, platform="cpu", static_argnums=1, donate_argnums=0)
    given = jnp.zeros(3)
    assert list(add(given, 2)) == [2, 2, 2]
    assert given.is_deleted()


def test_options_that_the_compiler_does_not_know_are_left_out(monkeypatch, fresh):
    def refuse(function, compiler_options):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")

    monkeypatch.setattr(jax, "jit", refuse)
    assert compiler.cpu_options() == {}


def test_other_errors_are_not_hidden(monkeypatch, fresh):
    def fail(function, compiler_options):
        raise jax.errors.JaxRuntimeError("INTERNAL: out of memory")

    monkeypatch.setattr(jax, "jit", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        compiler.cpu_options()


def test_another_options_name_is_an_error():
    wrong = compiler.jit(lambda x: x, platform="cpu", compiler_options={"xla_nonsense": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_nonsense"):
        wrong(1.0)
