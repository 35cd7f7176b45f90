"""Learn a reward from pairs, rankings, scores or labels, and save it as a reward for RL.

    python experiments/reward_model.py
    python experiments/reward_model.py --config configs/reward_model_sentiment.py:smoke
    python experiments/reward_model.py --data.source mine.jsonl --workdir runs/mine
    python experiments/ppo.py --task.reward model:runs/mine

The reward model stands in WORKDIR/reward_model, its accuracy and calibration on held-out data in
WORKDIR/held_out.json. Starting again with the same --workdir goes on where the run stopped;
--dry-run makes no run.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from rljax.algorithms.reward_model import HEAD
from rljax.doctor.supervised import check_supervised
from rljax.experiment import RewardExperiment
from rljax.models import Pretrained
from rljax.reporting.calibration import calibration
from rljax.reporting.statistics import bootstrap_mean
from rljax.rewards.learned import FOLDER, RewardSettings, save_reward_model
from rljax.tasks.preference_batches import PreferenceData
from rljax.tasks.preferences import read_source
from rljax.training.compilation import enable_compilation_cache
from rljax.training.flags import parse_training, plain_errors
from rljax.training.manifest import write_text_atomically
from rljax.training.mesh import Placement, host_memory, make_layout, open_mesh
from rljax.training.parts import make_part
from rljax.training.policies import load_start
from rljax.training.processes import is_first, to_host
from rljax.training.reward_models import (
    SAMPLE_ROWS,
    Normalise,
    ends_in_eos,
    held_out_logits,
    load_reward_data,
    make_reward_learner,
    make_reward_normalise,
    normalise_trained,
    reward_scores,
    trunk_as,
)
from rljax.training.run import Run, open_run
from rljax.training.supervised import CHANGEABLE, Prepared, run_supervised


def judge(
    config: RewardExperiment,
    pretrained: Pretrained,
    data: PreferenceData,
    params: Any,
    directory: Path,
) -> None:
    """Write and print accuracy and calibration on all held-out judgements."""
    if data.held_out is None or config.reward_model.form == "scores":
        return
    logits, outcomes = held_out_logits(config, pretrained, params, data.held_out)
    found = calibration(logits, outcomes)
    right = ((logits > 0) == outcomes).astype(float)
    interval = bootstrap_mean(right)
    content = {
        "judgements": len(logits),
        "accuracy": interval._asdict(),
        "ece": found.ece,
        "bins": [b._asdict() for b in found.bins],
    }
    write_text_atomically(directory / "held_out.json", json.dumps(content, indent=2) + "\n")
    print(
        f"all {len(logits)} held-out judgements: accuracy {interval.mean:.3f} "
        f"[{interval.low:.3f}, {interval.high:.3f}], calibration error {found.ece:.3f}"
    )
    for b in found.bins:
        if b.predictions:
            print(
                f"  sure {b.low:.2f} to {b.high:.2f}: {b.predictions:>5} judgements, confidence "
                f"{b.confidence:.3f}, right {b.accuracy:.3f}"
            )


def finish(
    config: RewardExperiment,
    pretrained: Pretrained,
    data: PreferenceData,
    normalise: Normalise,
    params: Any,
    run: Run,
) -> None:
    """Judge what was learnt, normalise it, and save the reward model."""
    judge(config, pretrained, data, params, run.directory)
    params, gain, shift = normalise_trained(normalise, params)
    settings = RewardSettings(
        chat=config.data.chat,
        append_eos=ends_in_eos(data.train, pretrained.eos_token_ids),
        loss=config.reward_model.loss,
        logit_scale=1 / gain,
    )
    place = save_reward_model(
        run.directory / FOLDER, trunk_as(pretrained, params), params[HEAD], settings
    )
    if normalise is not None:
        print(f"normalised on the reference's completions: gain {gain:.4f}, shift {shift:+.4f}")
    print(f"wrote the reward model to {place}: --task.reward model:{run.directory}")


class Ready(NamedTuple):
    """What a run trains on, and what it needs again at its end."""

    prepared: Prepared
    data: PreferenceData
    normalise: Normalise


def prepare(
    config: RewardExperiment, mesh: Mesh | None, *, normalise_by: RewardExperiment | None = None
) -> Ready:
    """Read the preferences, load the model, and sample what scores are normalised on.

    normalise_by: the experiment that says on how much.
    """
    source = read_source(config.data.source, config.data)  # what is wrong there costs no loading
    with host_memory(mesh):
        pretrained = load_start(config)
    data = load_reward_data(config, pretrained, source)
    print(data.summary)
    normalise = make_reward_normalise(normalise_by or config, pretrained, data)
    learner = make_reward_learner(config, pretrained, data, normalise)
    placement = Placement(make_layout(mesh, pretrained.model.config))
    return Ready(Prepared(pretrained, data.train, learner, placement), data, normalise)


def check(config: RewardExperiment, mesh: Mesh | None) -> None:
    """Make the dry run; normalisation samples as little as it can."""
    few = dataclasses.replace(
        config,
        reward_model=dataclasses.replace(
            config.reward_model,
            normalise_samples=min(config.reward_model.normalise_samples, SAMPLE_ROWS),
        ),
    )
    check_supervised(
        config,
        lambda _: prepare(config, mesh, normalise_by=few).prepared,
        scores=functools.partial(reward_scores, config),
    )


def main(argv: list[str] | None = None) -> None:
    config, dry_run = parse_training(
        "configs/reward_model_sentiment.py", argv, RewardExperiment, __doc__ or ""
    )
    with plain_errors():
        enable_compilation_cache()
        mesh = open_mesh(config.mesh)
        if dry_run:
            check(config, mesh)
            return
        with open_run(config.workdir, config, ignore=CHANGEABLE, name="reward-model") as run:
            print(f"run directory: {run.directory}")
            (pretrained, _, learner, placement, _), data, normalise = prepare(config, mesh)
            state = run_supervised(config, learner, run, placement)
            if int(state.step) >= config.steps:
                params = to_host(make_part(config, pretrained.params).merged(state))
                if is_first():
                    finish(config, pretrained, data, normalise, params, run)


if __name__ == "__main__":
    main()
