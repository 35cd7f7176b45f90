"""Supervised fine-tuning of a language model on texts, pairs or conversations.

    python experiments/sft.py
    python experiments/sft.py --config configs/sft_sentiment.py:smoke --workdir /tmp/run
    python experiments/sft.py --data.source mine.jsonl --model.source my-model

Records of `prompt` and `completion` are learnt in their completions, `messages` in the assistant's
turns, `text` whole. Starting again with the same --workdir goes on where the run stopped;
--dry-run makes no run.
"""

from __future__ import annotations

from jax.sharding import Mesh

from rljax.doctor.supervised import check_supervised
from rljax.experiment import TextExperiment
from rljax.tasks.documents import read_documents, read_found
from rljax.training.compilation import enable_compilation_cache
from rljax.training.flags import parse_training, plain_errors
from rljax.training.mesh import Placement, host_memory, make_layout, open_mesh
from rljax.training.policies import load_start
from rljax.training.run import open_run
from rljax.training.supervised import CHANGEABLE, Prepared, run_supervised
from rljax.training.texts import make_text_data, make_text_learner


def prepare(config: TextExperiment, mesh: Mesh | None) -> Prepared:
    """Read the data, load the model, and put them together."""
    found = read_found(config.data)  # what is wrong there costs no loading
    with host_memory(mesh):
        pretrained = load_start(config)
    records = read_documents(config.data, pretrained.tokenizer, found)
    data = make_text_data(config, pretrained, records)
    print(data.summary)
    placement = Placement(make_layout(mesh, pretrained.model.config))
    learner = make_text_learner(config, pretrained, data)
    return Prepared(pretrained, data.train, learner, placement)


def main(argv: list[str] | None = None) -> None:
    config, dry_run = parse_training(
        "configs/sft_sentiment.py", argv, TextExperiment, __doc__ or ""
    )
    with plain_errors():
        enable_compilation_cache()
        mesh = open_mesh(config.mesh)
        if dry_run:
            check_supervised(config, lambda _: prepare(config, mesh))
            return
        with open_run(config.workdir, config, ignore=CHANGEABLE, name="sft") as run:
            print(f"run directory: {run.directory}")
            ready = prepare(config, mesh)
            run_supervised(config, ready.learner, run, ready.placement)


if __name__ == "__main__":
    main()
