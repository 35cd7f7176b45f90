"""Compute the losses of preferences: of pairs, of single judged completions, of rankings.

Shapes: B records, K completions of a record; every array is [B] unless it says [B, K], and every
loss comes back per record, [B]. `log_ratio` is log pi(y | x) - log pi_ref(y | x) of a whole
completion, in nats; `mean_log_prob` is log pi(y | x) divided by the completion's tokens.
"""

import jax
import jax.numpy as jnp

NEGATIVE = -1e30


def dpo_loss(
    chosen_log_ratio: jax.Array,
    rejected_log_ratio: jax.Array,
    *,
    beta: float | jax.Array,
    label_smoothing: float | jax.Array = 0.0,
    margins: jax.Array | float = 0.0,
) -> jax.Array:
    """Compute DPO's loss, or with `label_smoothing` e that of conservative DPO.

    h = beta (chosen_log_ratio - rejected_log_ratio) - margins
    loss = -(1 - e) log sigmoid(h) - e log sigmoid(-h)
    Rafailov et al. 2023, eq. 7 (https://arxiv.org/abs/2305.18290); cDPO, for labels that are wrong
    with probability e: Mitchell 2023 (https://ericmitchell.ai/cdpo.pdf). `margins`: by how much
    the chosen one should lead (Amini et al. 2024, https://arxiv.org/abs/2402.10571). At equal
    log-ratios and margin 0 it is ln 2.
    """
    return bradley_terry_loss(
        beta * chosen_log_ratio,
        beta * rejected_log_ratio,
        label_smoothing=label_smoothing,
        margins=margins,
    )


def robust_dpo_loss(
    chosen_log_ratio: jax.Array,
    rejected_log_ratio: jax.Array,
    *,
    beta: float,
    label_smoothing: float,
) -> jax.Array:
    """Compute robust DPO's loss: unbiased where labels are flipped with probability e < 1/2.

    h = beta (chosen_log_ratio - rejected_log_ratio), e = label_smoothing
    loss = (-(1 - e) log sigmoid(h) + e log sigmoid(-h)) / (1 - 2 e)
    Chowdhury et al. 2024, eq. 8 (https://arxiv.org/abs/2403.00409). Its mean over the flips is
    DPO's loss on the true labels. Raises ValueError for e outside [0, 1/2).
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5), got {label_smoothing}")
    h = beta * (chosen_log_ratio - rejected_log_ratio)
    kept = -(1 - label_smoothing) * jax.nn.log_sigmoid(h)
    flipped = label_smoothing * jax.nn.log_sigmoid(-h)
    return (kept + flipped) / (1 - 2 * label_smoothing)


def ipo_loss(
    chosen_log_ratio: jax.Array, rejected_log_ratio: jax.Array, *, beta: float
) -> jax.Array:
    """Compute IPO's loss: (chosen_log_ratio - rejected_log_ratio - 1 / (2 beta))^2.

    Azar et al. 2023, eq. 17 (https://arxiv.org/abs/2310.12036), where beta is tau. The paper's
    log-ratios are of whole completions; with means per token, as TRL takes them after the paper's
    authors, the target does not depend on the lengths.
    """
    return jnp.square(chosen_log_ratio - rejected_log_ratio - 1 / (2 * beta))


def hinge_loss(
    chosen_log_ratio: jax.Array, rejected_log_ratio: jax.Array, *, beta: float
) -> jax.Array:
    """Compute the hinge loss max(0, 1 - beta (chosen_log_ratio - rejected_log_ratio)).

    SLiC's calibration loss (Zhao et al. 2023, https://arxiv.org/abs/2305.10425) on log-ratios, as
    Liu et al. 2023, eq. 9 (https://arxiv.org/abs/2309.06657), put it beside DPO.
    """
    return jax.nn.relu(1 - beta * (chosen_log_ratio - rejected_log_ratio))


def kto_baseline(mismatched_log_ratio: jax.Array, weights: jax.Array) -> jax.Array:
    """Estimate KTO's reference point: max(0, sum(weights x mismatched_log_ratio)), no gradient.

    mismatched_log_ratio: of completions that belong to other prompts, an estimate of
    KL(pi || pi_ref) that is biased but costs no sampling. weights: adding up to 1. Ethayarajh et
    al. 2024, section 4.1 (https://arxiv.org/abs/2402.01306).
    """
    return jax.lax.stop_gradient(jax.nn.relu(jnp.sum(weights * mismatched_log_ratio)))


def kto_loss(
    log_ratio: jax.Array,
    desirable: jax.Array,
    baseline: jax.Array,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> jax.Array:
    """Compute KTO's loss of single completions.

    desirable: weight_D (1 - sigmoid(beta (log_ratio - baseline)))
    undesirable: weight_U (1 - sigmoid(beta (baseline - log_ratio)))
    Ethayarajh et al. 2024, eq. 8 (https://arxiv.org/abs/2402.01306). desirable: bool [B];
    baseline: that of `kto_baseline`, a scalar or [B].
    """
    lead = beta * (log_ratio - baseline)
    good = desirable_weight * jax.nn.sigmoid(-lead)
    bad = undesirable_weight * jax.nn.sigmoid(lead)
    return jnp.where(desirable, good, bad)


def orpo_loss(
    chosen_mean_log_prob: jax.Array, rejected_mean_log_prob: jax.Array, *, beta: float
) -> jax.Array:
    """Compute ORPO's loss: the chosen completion's likelihood, and the odds ratio.

    loss = -chosen - beta log sigmoid(log odds(chosen) - log odds(rejected)),
    odds(y) = p / (1 - p) with p = exp(mean_log_prob). Hong et al. 2024, eqs. 3 to 7
    (https://arxiv.org/abs/2403.07691), where beta is lambda. There is no reference.
    """
    odds = _log_odds(chosen_mean_log_prob) - _log_odds(rejected_mean_log_prob)
    return -chosen_mean_log_prob - beta * jax.nn.log_sigmoid(odds)


def _log_odds(log_p: jax.Array) -> jax.Array:
    """Compute log p - log(1 - p), finite at p = 1 as well."""
    log_p = jnp.minimum(log_p, -1e-6)
    return log_p - jnp.log(-jnp.expm1(log_p))


def simpo_loss(
    chosen_mean_log_prob: jax.Array,
    rejected_mean_log_prob: jax.Array,
    *,
    beta: float,
    gamma: float,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Compute SimPO's loss: -log sigmoid(beta (chosen - rejected) - gamma) of mean log-probs.

    Meng et al. 2024, eq. 6 (https://arxiv.org/abs/2405.14734). There is no reference.
    """
    return bradley_terry_loss(
        beta * chosen_mean_log_prob,
        beta * rejected_mean_log_prob,
        label_smoothing=label_smoothing,
        margins=gamma,
    )


# ------------------------------------------------------------------------------- Reward models


def bradley_terry_loss(
    chosen_scores: jax.Array,
    rejected_scores: jax.Array,
    *,
    label_smoothing: float | jax.Array = 0.0,
    margins: jax.Array | float = 0.0,
) -> jax.Array:
    """Compute the Bradley-Terry loss of pairs.

    d = chosen_scores - rejected_scores - margins, e = label_smoothing
    loss = -(1 - e) log sigmoid(d) - e log sigmoid(-d)
    Ouyang et al. 2022, eq. 1 (https://arxiv.org/abs/2203.02155); margins: Touvron et al. 2023,
    eq. 2 (https://arxiv.org/abs/2307.09288).
    """
    d = chosen_scores - rejected_scores - margins
    return -(1 - label_smoothing) * jax.nn.log_sigmoid(d) - label_smoothing * jax.nn.log_sigmoid(-d)


def all_pairs_loss(
    scores: jax.Array,
    values: jax.Array,
    valid: jax.Array,
    *,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Compute the mean Bradley-Terry loss over all pairs of a ranking: [B, K] each -> [B].

    values: higher is better; pairs of equal values say nothing and do not count. valid: bool, true
    on real completions. A ranking without a pair gives 0. Ouyang et al. 2022, eq. 1
    (https://arxiv.org/abs/2203.02155): 1 / (K choose 2), so that every ranking counts alike.
    """
    better = values[:, :, None] > values[:, None, :]
    pairs = better & valid[:, :, None] & valid[:, None, :]  # [B, K, K]
    losses = bradley_terry_loss(
        scores[:, :, None], scores[:, None, :], label_smoothing=label_smoothing
    )
    count = jnp.sum(pairs, axis=(1, 2))
    return jnp.sum(jnp.where(pairs, losses, 0), axis=(1, 2)) / jnp.maximum(count, 1)


def plackett_luce_loss(scores: jax.Array, values: jax.Array, valid: jax.Array) -> jax.Array:
    """Compute -log P(ranking) under Plackett-Luce, [B, K] each -> [B].

    With completions in the order of falling `values`:
    loss = sum_k (logsumexp_{j >= k} scores_j - scores_k)
    Zhu et al. 2023, section 4 (https://arxiv.org/abs/2301.11270). Values must differ: the order of
    equal ones is that of their places. For K = 2 it is the Bradley-Terry loss.
    """
    order = jnp.argsort(jnp.where(valid, -values, jnp.inf), axis=1, stable=True)
    ranked = jnp.take_along_axis(scores, order, axis=1)
    real = jnp.take_along_axis(valid, order, axis=1)
    masked = jnp.where(real, ranked, NEGATIVE)
    rest = jax.lax.cumlogsumexp(masked, axis=1, reverse=True)
    return jnp.sum(jnp.where(real, rest - masked, 0), axis=1)


def regression_loss(scores: jax.Array, targets: jax.Array) -> jax.Array:
    """Compute the squared error 1/2 (scores - targets)^2."""
    return 0.5 * jnp.square(scores - targets)


def classification_loss(
    scores: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
    """Compute the binary cross-entropy of logits `scores` and labels in {0, 1}.

    label_smoothing e: the label is taken to be wrong with probability e.
    """
    target = labels * (1 - label_smoothing) + (1 - labels) * label_smoothing
    return -target * jax.nn.log_sigmoid(scores) - (1 - target) * jax.nn.log_sigmoid(-scores)
