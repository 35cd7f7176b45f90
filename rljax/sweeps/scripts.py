"""The training scripts, as something to call: which one runs a config, and running it here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from rljax.errors import UserError
from rljax.experiment import (
    DistillExperiment,
    GRPOExperiment,
    OnlineDPOExperiment,
    PPOExperiment,
    PreferenceExperiment,
    PretrainExperiment,
    RewardExperiment,
    TextExperiment,
)
from rljax.training.flags import repository_root

SCRIPTS: dict[type, str] = {
    GRPOExperiment: "grpo",
    PPOExperiment: "ppo",
    OnlineDPOExperiment: "online_dpo",
    PretrainExperiment: "pretrain",
    TextExperiment: "sft",
    PreferenceExperiment: "dpo",
    RewardExperiment: "reward_model",
    DistillExperiment: "distill",
}
"""The script that runs a config of each type."""


def load_script(name: str) -> ModuleType:
    """Return the module of experiments/NAME.py."""
    module_name = f"rljax_script_{name}"
    if module_name not in sys.modules:
        path = repository_root() / "experiments" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    return sys.modules[module_name]


def run_script(name: str, config_file: Path) -> None:
    """Run a script in this process, with a config.json, in that file's directory.

    Raises UserError for what it could not do.
    """
    main = load_script(name).main
    try:
        main(["--config", str(config_file), "--workdir", str(config_file.parent)])
    except SystemExit as stop:
        if stop.code:
            raise UserError(str(stop.__cause__ or stop)) from stop
