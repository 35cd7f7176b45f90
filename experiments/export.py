"""Write the policy of a run as a Hugging Face directory, which `transformers` loads.

    python experiments/export.py --run runs/ppo-20260101-120000 --out my-model
    python experiments/export.py --run runs/ppo-20260101-120000 --out my-model --checkpoint best
    python experiments/export.py --run runs/sft-with-lora --out my-adapters --adapters

The value head of a shared critic goes into a file of its own beside the weights. A run with
`lora.rank` is merged; with --adapters its adapters alone are written, as the package `peft` reads
them over the model that the run started from.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from rljax.errors import UserError
from rljax.models import save_pretrained
from rljax.models.peft import save_peft
from rljax.training.flags import plain_errors
from rljax.training.policies import model_errors
from rljax.training.trained import Trained, is_run, load_trained


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the policy of a run as a Hugging Face directory."""

    run: str
    """The run directory."""
    out: str
    """Where to write; a model that stands there is replaced."""
    checkpoint: Literal["last", "best"] | int = "last"
    """The newest checkpoint, the one with the highest score, or that of a step."""
    adapters: bool = False
    """Write the low-rank adapters of the run alone, in the form of peft."""


def export(options: Export) -> Path:
    """Load the checkpoint and write the directory."""
    out = Path(options.out).expanduser()
    if is_run(out):
        raise UserError(f"{out} is a run directory: give --out another place")
    with model_errors():
        trained = load_trained(options.run, options.checkpoint)
    if options.adapters and trained.adapters is None:
        raise UserError(f"{options.run} trained no adapters (lora.rank is 0): omit --adapters")
    try:
        if options.adapters:
            save_adapters(out, trained)
        else:
            save_pretrained(out, trained.pretrained)
    except OSError as error:
        raise UserError(f"the model cannot be written to {out}: {error}") from error
    what = "adapters" if options.adapters else "policy"
    print(f"wrote the {what} of step {trained.step} of {options.run} to {out}")
    return out


def save_adapters(out: Path, trained: Trained) -> None:
    """Write the adapters of a run, and the name of the model that they belong to."""
    assert trained.adapters is not None  # export() has looked
    pretrained = trained.pretrained
    save_peft(
        out,
        pretrained.hf_config["model_type"],
        pretrained.model.config,
        trained.adapters,
        base=trained.config["model"]["source"],
    )


def main(argv: list[str] | None = None) -> None:
    options = tyro.cli(Export, args=argv, description=__doc__)
    with plain_errors():
        export(options)


if __name__ == "__main__":
    main()
