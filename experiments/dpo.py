"""Learn from preferences without sampling: DPO, IPO, hinge, KTO, ORPO, SimPO and relatives.

    python experiments/dpo.py
    python experiments/dpo.py --config configs/dpo_sentiment.py:smoke --workdir /tmp/run
    python experiments/dpo.py --data.source mine.jsonl --data.no-append-eos --dpo.beta 0.3

A record is `prompt`, `chosen`, `rejected` (or one of the other kinds of `rljax.tasks.preferences`).
Starting again with the same --workdir goes on where the run stopped; --dry-run makes none.
"""

from __future__ import annotations

from pathlib import Path

from jax.sharding import Mesh

from rljax.doctor.supervised import check_supervised, shortened
from rljax.experiment import PreferenceExperiment
from rljax.tasks.preferences import read_source
from rljax.training.compilation import enable_compilation_cache
from rljax.training.flags import parse_training, plain_errors
from rljax.training.mesh import Placement, host_memory, make_layout, open_mesh
from rljax.training.policies import load_start
from rljax.training.preferences import make_preference_learner, prepare_preferences
from rljax.training.run import open_run
from rljax.training.supervised import CHANGEABLE, Prepared, run_supervised


def prepare(
    config: PreferenceExperiment,
    mesh: Mesh | None,
    directory: Path,
    read_by: PreferenceExperiment | None = None,
) -> Prepared:
    """Read the preferences, load the model, and let the reference score them.

    directory: where its log-probs are kept. read_by: the experiment whose steps and evaluations
    read the preferences: what they do not read is not scored.
    """
    source = read_source(config.data.source, config.data)  # what is wrong there costs no loading
    with host_memory(mesh):
        pretrained = load_start(config)
    placement = Placement(make_layout(mesh, pretrained.model.config))
    data = prepare_preferences(read_by or config, pretrained, directory, placement, source)
    learner = make_preference_learner(config, pretrained, data)
    return Prepared(pretrained, data.train, learner, placement)


def main(argv: list[str] | None = None) -> None:
    config, dry_run = parse_training(
        "configs/dpo_sentiment.py", argv, PreferenceExperiment, __doc__ or ""
    )
    with plain_errors():
        enable_compilation_cache()
        mesh = open_mesh(config.mesh)
        if dry_run:
            short = shortened(config)
            check_supervised(config, lambda folder: prepare(config, mesh, folder, short))
            return
        with open_run(config.workdir, config, ignore=CHANGEABLE, name="dpo") as run:
            print(f"run directory: {run.directory}")
            ready = prepare(config, mesh, run.directory)
            run_supervised(config, ready.learner, run, ready.placement)


if __name__ == "__main__":
    main()
