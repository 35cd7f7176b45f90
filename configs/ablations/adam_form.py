"""A3. Where Adam adds its epsilon: in TensorFlow's form or in PyTorch's.

Huang et al. 2023, "The N implementation details of RLHF with PPO", detail on Adam
(https://huggingface.co/blog/the_n_implementation_details_of_rlhf_with_ppo): TensorFlow 1 adds eps
before the correction of the bias ("epsilon hat" of Kingma and Ba 2015, section 2), so that at
update t it weighs 1 / sqrt(1 - b2^t) more, 32 times at the first. Where gradients are as small as
that, PyTorch's form moves the policy further in the first updates.

Arms: TensorFlow's form with eps 1e-5, PyTorch's with 1e-5 and 1e-8; the first two once more at a
tenth of the width (narrow), where single gradients are larger, without a claim.

Task: PPO on the nano task of `rljax.sweeps.worlds`, 64 completions a step, 5 epochs of one update
each, no warm-up, no clipping of gradients. At step 1 all arms of a seed have the same start and the
same rollout, and the step is updates 1 to 5: its metrics compare the forms on one recorded batch.
That the rollout is the same is a claim. The width, 384, was chosen on seeds 100 and 101 for small
gradients, which the effect needs: the ratio of the approximate KLs was 1.1 at width 48 (root mean
square of the gradient 3e-3 a parameter), 1.4 at 128, 2.0 at 256 and 2.6 at 384 (4e-4).

Metrics, of step 1: `approx KL` and `clipped`, means over updates 1 to 5 (the first of which has
ratio 1 and adds 0), `max ratio`, their largest, `gradient`, the root mean square over parameters,
`entropy`, nats a completion of the rollout; of the last fifth of the steps: `score`, `KL`.

Came out, 5 seeds, 9 minutes beside other programs on 2 cores (results/adam_form/table.md), all four
claims reproduced. At step 1 the approximate KL of PyTorch's form is 2.85 [2.59, 3.08] times that of
TensorFlow's (0.0030, 0.0011), the share of clipped tokens 4.1% against 1.3%, the largest ratio 1.44
against 1.30; eps 1e-8 adds little (0.0035, 4.4%, 1.47). The score at the end differs by +0.000
[-0.004, 0.005] of 0.97. Narrow: 0.0026 against 0.0024, with gradients of 4.5e-3 a parameter instead
of 4e-4: how much the form matters is a question of how small gradients are. The widths also differ
in their start and in how fast they learn: their scores are not to be compared. `full` has been run
as `--smoke` only.

    python experiments/sweep.py --config configs/ablations/adam_form.py
"""

import dataclasses

import jax
import numpy as np

from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import PPOExperiment
from rljax.kl import KLConfig
from rljax.models.gru import make_gru
from rljax.reporting.runs import RunRecord
from rljax.rollout.distribution import SamplingConfig
from rljax.sweeps.nano import NanoPPO, train_nano
from rljax.sweeps.spec import Claim, Sweep, Table, at, last, maximum, mean_of_last
from rljax.training.flags import load_config
from rljax.training.optimizer import OptimizerConfig

base = NanoPPO(
    hidden_size=384,
    sampling=SamplingConfig(max_new_tokens=6, temperature=1.0),
    optimizer=OptimizerConfig(learning_rate=3e-4, schedule="linear", max_grad_norm=None),
    ppo=PPOConfig(batch_size=64, num_epochs=5, whiten_rewards=False, kl=KLConfig(coef=0.05)),
    steps=40,
)
forms = {
    "tf_1e-5": {"optimizer.adam_form": "tf", "optimizer.adam_eps": 1e-5},
    "torch_1e-5": {"optimizer.adam_form": "torch", "optimizer.adam_eps": 1e-5},
    "torch_1e-8": {"optimizer.adam_form": "torch", "optimizer.adam_eps": 1e-8},
}
NARROW = {"hidden_size": 48}


def gradient(run: RunRecord) -> float:
    """Read the root mean square of the gradient at step 1, over the parameters."""
    width = run.config["hidden_size"]
    policy = jax.eval_shape(make_gru(base.world.vocabulary, width).init, jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(policy)) + width + 1  # the value head
    return at("optim/grad_norm", 1)(run) / size**0.5


def kl_ratio(table: Table) -> np.ndarray:
    """Return each seed's approximate KL in PyTorch's form over that in TensorFlow's."""
    return table.of("approx KL", "torch_1e-5") / table.of("approx KL", "tf_1e-5")


early = {
    "approx KL": at("policy/approx_kl", 1),
    "clipped": at("policy/clip_fraction", 1),
    "max ratio": at("policy/ratio_max", 1),
}
claims = (
    *(
        Claim(f"{arm}: the first rollout is that of TensorFlow's form",
              "entropy", arm, "within", "tf_1e-5", margin=1e-5)
        for arm in ("torch_1e-5", "torch_1e-8")
    ),
    Claim("PyTorch's form has over twice the approximate KL in updates 1 to 5",
          "approx KL", kl_ratio, ">", 2.0),
    Claim("the score at the end is the same", "score", "torch_1e-5", "equal", "tf_1e-5"),
)  # fmt: skip

cpu = Sweep(
    name="adam_form",
    base=base,
    arms={
        **forms,
        "narrow_tf_1e-5": forms["tf_1e-5"] | NARROW,
        "narrow_torch_1e-5": forms["torch_1e-5"] | NARROW,
    },
    seeds=(0, 1, 2, 3, 4),
    metrics={
        **early,
        "gradient": gradient,
        "entropy": at("objective/entropy", 1),
        "score": mean_of_last("objective/scores", 0.2),
        "KL": mean_of_last("objective/kl", 0.2),
    },
    claims=claims,
    program=train_nano,
    smoke={"steps": 6, "pretrain_steps": 5, "hidden_size": 8, "ppo.batch_size": 16},
)

sentiment = load_config("configs/ppo_sentiment_gpt2.py", PPOExperiment)
XL = {"model.source": "openai-community/gpt2-xl", "ppo.gradient_accumulation": 64}
full = Sweep(
    name="adam_form",
    base=dataclasses.replace(sentiment, steps=500),
    arms={**forms, **{f"xl_{form}": changes | XL for form, changes in forms.items()}},
    seeds=(0, 1, 2, 3, 4),
    metrics={
        **early,
        "spike": maximum("objective/kl"),
        "KL": last("eval/kl"),
        "score": last("eval/scores"),
    },
    claims=(
        Claim("PyTorch's form has over twice the approximate KL at the first step",
              "approx KL", kl_ratio, ">", 2.0),
        Claim("GPT-2 XL: the KL's largest value is higher in PyTorch's form",
              "spike", "xl_torch_1e-5", ">", "xl_tf_1e-5"),
    ),
    smoke={
        "model.source": "random:tiny-gpt2", "ppo.batch_size": 8, "ppo.gradient_accumulation": 1,
        "steps": 2, "eval_prompts": 8,
    },
)  # fmt: skip
"""GPT-2 and GPT-2 XL on IMDB with VADER's sentiment: four updates a step."""
