"""Train a language model from scratch: its sizes, its tokenizer, its texts.

    python experiments/pretrain.py
    python experiments/pretrain.py --config configs/pretrain_arithmetic.py --workdir runs/sums
    python experiments/pretrain.py --data.source mine.jsonl --architecture.num-layers 6

The run directory holds configuration and tokenizer under model/, so that generate.py, evaluate.py
and export.py take it as any other run. Starting again with the same --workdir goes on where the
run stopped; --dry-run makes none.
"""

from __future__ import annotations

from pathlib import Path

import jax
from jax.sharding import Mesh

from rljax.doctor.supervised import check_supervised
from rljax.experiment import SCRATCH, PretrainExperiment
from rljax.models import Pretrained, load_tokenizer, random_pretrained, save_description
from rljax.models.scratch import make_architecture, make_tokenizer, read_architecture
from rljax.tasks.documents import Records, read_documents
from rljax.training.compilation import enable_compilation_cache
from rljax.training.flags import parse_training, plain_errors
from rljax.training.mesh import Placement, host_memory, make_layout, open_mesh
from rljax.training.policies import model_errors
from rljax.training.processes import first_decides, is_first
from rljax.training.run import open_run
from rljax.training.supervised import CHANGEABLE, Prepared, run_supervised
from rljax.training.texts import make_text_data, make_text_learner
from rljax.training.trained import MODEL_FOLDER


def make_pretrained(config: PretrainExperiment, records: Records, folder: Path) -> Pretrained:
    """Make the model of step 0; its tokenizer is the one in `folder`, once there is one."""
    with model_errors():
        there = first_decides(folder.is_dir)
        if there:
            tokenizer = load_tokenizer(folder)
        else:
            texts = (text for record in records.train for text in record.texts)
            tokenizer = make_tokenizer(config.tokenizer, texts)
        if config.model.source == SCRATCH:
            family = config.architecture.family
            sizes = make_architecture(config.architecture, len(tokenizer))
        else:
            family, sizes = read_architecture(config.model.source)
        pretrained = random_pretrained(family, sizes, config.seed, tokenizer=tokenizer)
    if not there and is_first():
        save_description(folder, pretrained)
    return pretrained


def prepare(config: PretrainExperiment, mesh: Mesh | None, directory: Path) -> Prepared:
    """Read the data, and make tokenizer and model; their description is kept in `directory`."""
    records = read_documents(config.data)
    with host_memory(mesh):
        pretrained = make_pretrained(config, records, directory / MODEL_FOLDER)
    count = sum(leaf.size for leaf in jax.tree.leaves(pretrained.params))
    print(f"{count:,} parameters, {len(pretrained.tokenizer)} tokens")
    data = make_text_data(config, pretrained, records)
    print(data.summary)
    placement = Placement(make_layout(mesh, pretrained.model.config))
    learner = make_text_learner(config, pretrained, data)
    return Prepared(pretrained, data.train, learner, placement)


def main(argv: list[str] | None = None) -> None:
    config, dry_run = parse_training(
        "configs/pretrain_reviews.py", argv, PretrainExperiment, __doc__ or ""
    )
    with plain_errors():
        enable_compilation_cache()
        mesh = open_mesh(config.mesh)
        if dry_run:
            check_supervised(config, lambda folder: prepare(config, mesh, folder))
            return
        with open_run(config.workdir, config, ignore=CHANGEABLE, name="pretrain") as run:
            print(f"run directory: {run.directory}")
            ready = prepare(config, mesh, run.directory)
            run_supervised(config, ready.learner, run, ready.placement)


if __name__ == "__main__":
    main()
