"""PPO on a language model, from a config to a report. `--help` lists every flag.

    python experiments/ppo.py
    python experiments/ppo.py --config configs/ppo_sentiment.py:smoke --workdir /tmp/run
    python experiments/ppo.py --task.prompts mine.jsonl --task.reward mine.py:score --seed 1

Starting again with the same --workdir goes on where the run stopped; --dry-run looks at all that it
needs and makes none.
"""

from __future__ import annotations

import functools

from rljax.algorithms.ppo import make_update
from rljax.doctor.policy import check_policy
from rljax.experiment import CHANGEABLE, PPOExperiment
from rljax.training.compilation import enable_compilation_cache
from rljax.training.flags import parse_training, plain_errors
from rljax.training.mesh import open_mesh
from rljax.training.on_policy import train
from rljax.training.run import open_run
from rljax.training.setup import OnPolicy


def main(argv: list[str] | None = None) -> None:
    config, dry_run = parse_training("configs/ppo_sentiment.py", argv, PPOExperiment, __doc__ or "")
    with plain_errors():
        enable_compilation_cache()
        mesh = open_mesh(config.mesh)
        build = functools.partial(OnPolicy, config, make_update, config.ppo.critic, mesh)
        if dry_run:
            check_policy(config, build)
            return
        with open_run(config.workdir, config, ignore=CHANGEABLE, name="ppo") as run:
            print(f"run directory: {run.directory}")
            train(build(), run)


if __name__ == "__main__":
    main()
