"""Online DPO: pairs of the policy's own completions, preferred by the task's reward.

    python experiments/online_dpo.py
    python experiments/online_dpo.py --config configs/online_dpo_sentiment.py:smoke
    python experiments/online_dpo.py --task.prompts mine.jsonl --task.reward model:runs/rm

Starting again with the same --workdir goes on where the run stopped; --dry-run looks at all that it
needs and makes none.
"""

from __future__ import annotations

import functools

from rljax.algorithms.online_dpo import make_update
from rljax.doctor.policy import check_policy
from rljax.experiment import CHANGEABLE, OnlineDPOExperiment
from rljax.training.compilation import enable_compilation_cache
from rljax.training.flags import parse_training, plain_errors
from rljax.training.mesh import open_mesh
from rljax.training.on_policy import train
from rljax.training.run import open_run
from rljax.training.setup import OnPolicy


def main(argv: list[str] | None = None) -> None:
    config, dry_run = parse_training(
        "configs/online_dpo_sentiment.py", argv, OnlineDPOExperiment, __doc__ or ""
    )
    with plain_errors():
        enable_compilation_cache()
        mesh = open_mesh(config.mesh)
        build = functools.partial(OnPolicy, config, make_update, "none", mesh)
        if dry_run:
            check_policy(config, build)
            return
        with open_run(config.workdir, config, ignore=CHANGEABLE, name="online-dpo") as run:
            print(f"run directory: {run.directory}")
            train(build(), run)


if __name__ == "__main__":
    main()
