"""Learn from preferences without sampling: DPO, IPO, hinge, KTO, ORPO, SimPO and relatives.

    python experiments/dpo.py
    python experiments/dpo.py --config configs/dpo_sentiment.py:smoke --workdir /tmp/run
    python experiments/dpo.py --data.source mine.jsonl --data.no-append-eos --dpo.beta 0.3

A record is `prompt`, `chosen`, `rejected` (or one of the other kinds of `rljax.tasks.preferences`).
Starting again with the same --workdir goes on where the run stopped.
"""

from __future__ import annotations

from rljax.experiment import PreferenceExperiment
from rljax.tasks.preferences import read_source
from rljax.training.compilation import enable_compilation_cache
from rljax.training.flags import parse_config, plain_errors
from rljax.training.mesh import Placement, host_memory, make_layout, open_mesh
from rljax.training.policies import load_start
from rljax.training.preferences import make_preference_learner, prepare_preferences
from rljax.training.run import open_run
from rljax.training.supervised import CHANGEABLE, run_supervised


def main(argv: list[str] | None = None) -> None:
    config = parse_config("configs/dpo_sentiment.py", argv, PreferenceExperiment, __doc__ or "")
    with plain_errors():
        enable_compilation_cache()
        mesh = open_mesh(config.mesh)
        with open_run(config.workdir, config, ignore=CHANGEABLE, name="dpo") as run:
            print(f"run directory: {run.directory}")
            # What is wrong there costs no loading.
            source = read_source(config.data.source, config.data)
            with host_memory(mesh):
                pretrained = load_start(config)
            placement = Placement(make_layout(mesh, pretrained.model.config))
            data = prepare_preferences(config, pretrained, run.directory, placement, source)
            learner = make_preference_learner(config, pretrained, data)
            run_supervised(config, learner, run, placement)


if __name__ == "__main__":
    main()
