"""Supervised fine-tuning of a language model on texts, pairs or conversations.

    python experiments/sft.py
    python experiments/sft.py --config configs/sft_sentiment.py:smoke --workdir /tmp/run
    python experiments/sft.py --data.source mine.jsonl --model.source my-model

Records of `prompt` and `completion` are learnt in their completions, `messages` in the assistant's
turns, `text` whole. Starting again with the same --workdir goes on where the run stopped.
"""

from __future__ import annotations

from rljax.experiment import TextExperiment
from rljax.tasks.documents import read_documents, read_found
from rljax.training.compilation import enable_compilation_cache
from rljax.training.flags import parse_config, plain_errors
from rljax.training.mesh import Placement, host_memory, make_layout, open_mesh
from rljax.training.policies import load_start
from rljax.training.run import open_run
from rljax.training.supervised import CHANGEABLE, run_supervised
from rljax.training.texts import make_text_data, make_text_learner


def main(argv: list[str] | None = None) -> None:
    config = parse_config("configs/sft_sentiment.py", argv, TextExperiment, __doc__ or "")
    with plain_errors():
        enable_compilation_cache()
        mesh = open_mesh(config.mesh)
        with open_run(config.workdir, config, ignore=CHANGEABLE, name="sft") as run:
            print(f"run directory: {run.directory}")
            found = read_found(config.data)  # what is wrong there costs no loading
            with host_memory(mesh):
                pretrained = load_start(config)
            records = read_documents(config.data, pretrained.tokenizer, found)
            data = make_text_data(config, pretrained, records)
            print(data.summary)
            placement = Placement(make_layout(mesh, pretrained.model.config))
            run_supervised(config, make_text_learner(config, pretrained, data), run, placement)


if __name__ == "__main__":
    main()
