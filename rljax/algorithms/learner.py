"""The optimizer's passes over one batch: epochs x minibatches x parts, as one pure function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from rljax.algorithms.actor_critic import Compose, all_trained, complete_params
from rljax.algorithms.buckets import Gradients, Shorten, with_fill
from rljax.parallel import summed_over_rows
from rljax.types import SupervisedState

Params = dict[str, Any]
Metrics = dict[str, jax.Array]
Loss = Callable[[Params, Any, Any], tuple[jax.Array, Metrics]]
"""(trained parameters, frozen ones, minibatch) -> loss, metrics."""

MAXIMA = ("policy/ratio_max", "health/sampler_logprob_gap")
"""Metrics of parts that combine by their maximum; all others add up."""


VARIANCE = "optim/grad_variance"


class Learn(Protocol):
    def __call__(
        self,
        carry: tuple[Params, Any],
        frozen: Any,
        batch: Any,
        prepare: Callable[[Any], Any],
        key: jax.Array,
        policy_factor: jax.Array | None = ...,
    ) -> tuple[tuple[Params, Any], Metrics]: ...


def _make_gradients(
    loss: Loss, parts: int, group: int, shorten: Shorten | None, measure_variance: bool
) -> Gradients:
    """Build gradients(params, frozen, minibatch) -> gradients, metrics: sums over the parts."""

    def gradients(params: Params, frozen: Any, minibatch: Any) -> tuple[Params, Metrics]:
        grad_fn: Gradients = jax.grad(loss, has_aux=True)
        if shorten is not None:
            grad_fn = shorten.gradients(grad_fn)
            minibatch = shorten.sort(minibatch, parts, group)
        if parts == 1:
            return grad_fn(params, frozen, minibatch)
        split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), minibatch)

        def add(total: Params, part: Any) -> tuple[Params, Metrics]:
            grads, metrics = grad_fn(params, frozen, part)
            if measure_variance:
                metrics[VARIANCE] = jnp.square(optax.tree.norm(grads["policy"]))
            return jax.tree.map(jnp.add, total, grads), metrics

        grads, metrics = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), split)
        reduced = {k: v.max() if k in MAXIMA else v.sum() for k, v in metrics.items()}
        if measure_variance:
            reduced[VARIANCE] = sum_variance(grads["policy"], reduced[VARIANCE], parts)
        return grads, reduced

    return gradients


def make_learner(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    num_epochs: int,
    num_minibatches: int,
    parts: int,
    group: int = 1,
    shorten: Shorten | None = None,
    measure_variance: bool = False,
) -> Learn:
    """Build learn((params, opt_state), frozen, batch, prepare, key) -> the former, metrics [U].

    frozen: parameters that the loss reads and nothing changes. batch: a pytree whose leaves lead
    with B sequences. Each epoch shuffles them anew with `key` into minibatches; prepare(minibatch)
    computes on the whole minibatch what the loss reads (whitening, weights), before it is split
    into `parts` whose gradients are added. Metrics come back per optimizer update,
    U = num_epochs x num_minibatches, with `optim/grad_norm` among them. policy_factor: scales
    gradients and updates of params["policy"] (0: it stands still); None: 1. group: so many rows in
    turn are shuffled as one. shorten: how rows are sorted by length into parts, and each part is
    cut to what it uses; the sums of a minibatch stay what they are. None: they are not.
    measure_variance: report `optim/grad_variance`, see `sum_variance`; needs parts above 1.
    """

    gradients = _make_gradients(loss, parts, group, shorten, measure_variance)

    def learn(
        carry: tuple[Params, Any],
        frozen: Any,
        batch: Any,
        prepare: Callable[[Any], Any],
        key: jax.Array,
        policy_factor: jax.Array | None = None,
    ) -> tuple[tuple[Params, Any], Metrics]:
        def one(carry: tuple[Params, Any], rows: jax.Array) -> Any:
            params, opt_state = carry
            minibatch = prepare(jax.tree.map(lambda x: jnp.asarray(x)[rows], batch))
            grads, metrics = summed_over_rows(gradients, MAXIMA)(params, frozen, minibatch)
            metrics = with_fill(metrics)
            if policy_factor is not None:
                grads = grads | {"policy": _scale(grads["policy"], policy_factor)}
            metrics["optim/grad_norm"] = optax.tree.norm(grads)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            if policy_factor is not None:
                updates = updates | {"policy": _scale(updates["policy"], policy_factor)}
            return (optax.apply_updates(params, updates), opt_state), metrics

        size = jax.tree.leaves(batch)[0].shape[0]
        keys = jax.random.split(key, num_epochs)
        orders = jax.vmap(lambda k: jax.random.permutation(k, size // group))(keys)
        orders = orders[..., None] * group + jnp.arange(group)
        return jax.lax.scan(one, carry, orders.reshape(num_epochs * num_minibatches, -1))

    return learn


def sum_variance(total: Params, squares: jax.Array, parts: int) -> jax.Array:
    """Estimate the variance of a sum of independent gradients, added up over the parameters.

    With parts g_1 ... g_P and their sum g: P / (P - 1) (sum_p |g_p|^2 - |g|^2 / P), the trace of
    the covariance of g: without bias where the parts are drawn alike. total: g; squares: the sum
    of |g_p|^2; parts: P, above 1.
    """
    whole = jnp.square(optax.tree.norm(total))
    return parts / (parts - 1) * (squares - whole / parts)


def _scale(tree: Params, factor: jax.Array) -> Params:
    return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), tree)


class Update(Protocol):
    def __call__(
        self, state: SupervisedState, batch: Any, key: jax.Array
    ) -> tuple[SupervisedState, Metrics]: ...


def init_supervised(
    params: Params, optimizer: optax.GradientTransformation, base: Any = ()
) -> SupervisedState:
    """Make the state of a supervised stage before its first step; base: what stays frozen."""
    return SupervisedState(params, optimizer.init(params), jnp.int32(0), base)


def whole_params(compose: Compose, state: SupervisedState) -> Params:
    """Give the policy of a state all of its parameters; what else is trained comes along."""
    return complete_params(compose, state.params, state.base)


def make_single_update(
    loss: Callable[[Params, Any], tuple[jax.Array, Metrics]],
    prepare: Callable[[Any], Any],
    optimizer: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    *,
    parts: int,
    compose: Compose = all_trained,
    shorten: Shorten | None = None,
) -> Update:
    """Build update(state, batch, key) -> state, metrics: one optimizer update on the whole batch.

    loss: (parameters with a whole policy, batch) -> loss, metrics. prepare, parts, shorten: as
    `make_learner`'s. learning_rate: step -> rate, reported as `optim/learning_rate`. compose: how
    state.base and what is trained of the policy come together.
    """

    def composed(params: Params, base: Any, batch: Any) -> tuple[jax.Array, Metrics]:
        return loss(complete_params(compose, params, base), batch)

    return make_frozen_update(
        composed, prepare, optimizer, learning_rate, parts=parts, shorten=shorten
    )


def make_frozen_update(
    loss: Loss,
    prepare: Callable[[Any], Any],
    optimizer: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    *,
    parts: int,
    shorten: Shorten | None = None,
) -> Update:
    """Build update(state, batch, key) as `make_single_update`, of a loss that reads state.base."""
    learn = make_learner(
        loss, optimizer, num_epochs=1, num_minibatches=1, parts=parts, shorten=shorten
    )

    def update(
        state: SupervisedState, batch: Any, key: jax.Array
    ) -> tuple[SupervisedState, Metrics]:
        (params, opt_state), metrics = learn(
            (state.params, state.opt_state), state.base, batch, prepare, key
        )
        report = {name: values[0] for name, values in metrics.items()}
        report["optim/learning_rate"] = learning_rate(state.step)
        return SupervisedState(params, opt_state, state.step + 1, state.base), report

    return update
