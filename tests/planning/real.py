"""Takes one real training step and prints the memory of what it ran, for test_real.py.

Arguments: the script's name, then its flags. Prints one line of JSON: bytes of the state on the
fullest device and, of each program, what its own analysis says.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import numpy as np

from rljax.algorithms import grpo, ppo
from rljax.experiment import GRPOExperiment, PPOExperiment
from rljax.training.batches import collect
from rljax.training.flags import parse_config
from rljax.training.mesh import open_mesh
from rljax.training.programs import policies_of
from rljax.training.setup import OnPolicy
from tests.parallel.child import count_bytes


def measured(function: Any, *arguments: Any) -> dict[str, float]:
    memory = function.lower(*arguments).compile().memory_analysis()
    return {
        "temporary": memory.temp_size_in_bytes,
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    }


def main() -> None:
    name, *flags = sys.argv[1:]
    kind, algorithm = {"ppo": (PPOExperiment, ppo), "grpo": (GRPOExperiment, grpo)}[name]
    config: Any = parse_config(f"configs/{name}_sentiment.py:smoke", flags, kind)
    critic = config.ppo.critic if name == "ppo" else "none"
    setup = OnPolicy(config, algorithm.make_update, critic, open_mesh(config.mesh))
    state, group = setup.first_state(), config.algorithm.sampled_group
    parts = {
        "policy": state.params["policy"],
        "critic": {k: v for k, v in state.params.items() if k != "policy"},
        "reference": state.ref_params,
        "optimizer": state.opt_state,
    }
    held = {part: count_bytes(tree)["fullest"] for part, tree in parts.items() if tree}
    batch, key = collect(setup, state, 0), jax.random.key(1)
    rows = setup.placement.rows(
        (batch.rollout, np.asarray(batch.scores, np.float32), batch.rollout.completions)
    )
    rollout, scores, made = rows
    policies, prompts = policies_of(state), rollout.prompts
    programs = {
        "sample": measured(setup.programs.act[group], policies, prompts, key),
        "score": measured(setup.programs.refer[group], policies, (prompts, made)),
        "update": measured(setup.programs.update, state, rollout, scores, key),
    }
    state, metrics = setup.programs.update(state, rollout, scores, key)
    assert np.isfinite(float(metrics["policy/loss"]))
    print(json.dumps({"state": held, "programs": programs, "prompt": prompts.tokens.shape[1]}))


if __name__ == "__main__":
    main()
