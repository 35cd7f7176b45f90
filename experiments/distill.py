"""Distil a teacher into a student, on data or on the student's own samples.

    python experiments/pretrain.py --config configs/pretrain_arithmetic.py --workdir runs/sums
    python experiments/distill.py --teacher.source runs/sums
    python experiments/distill.py --teacher.source runs/sums --distill.divergence reverse

The student is `model`, the teacher `teacher`; both are models or ended runs, of one vocabulary.
Starting again with the same --workdir goes on where the run stopped; --dry-run makes none.
"""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import Mesh

from rljax.algorithms.distillation import DistillState, batch_kind, make_evaluate, make_update
from rljax.doctor.supervised import check_supervised
from rljax.errors import UserError
from rljax.experiment import DistillExperiment
from rljax.models import Pretrained
from rljax.tasks import PromptSet, batch_indices, make_batch
from rljax.tasks.documents import Data, Records, make_data, make_prompts, read_documents, read_found
from rljax.training.alarms import distillation_alarms
from rljax.training.compilation import enable_compilation_cache
from rljax.training.flags import parse_training, plain_errors
from rljax.training.mesh import Placement, host_memory, make_layout, open_mesh
from rljax.training.parts import make_part
from rljax.training.policies import build_model, load_model, load_start
from rljax.training.run import open_run
from rljax.training.supervised import (
    CHANGEABLE,
    Learner,
    Prepared,
    held_out_batches,
    make_rate,
    run_supervised,
)


def check_vocabulary(student: Pretrained, teacher: Pretrained) -> None:
    """Raise UserError unless both models predict the same tokens."""
    sizes = [model.model.config.vocab_size for model in (student, teacher)]
    if sizes[0] != sizes[1] or student.tokenizer.get_vocab() != teacher.tokenizer.get_vocab():
        raise UserError(
            f"student and teacher have different vocabularies ({sizes[0]} and {sizes[1]} tokens): "
            "their distributions cannot be compared; give a student with the teacher's tokenizer"
        )


def shortest_context(student: Pretrained, teacher: Pretrained) -> int:
    """Return how many tokens both models can see."""
    return min(model.model.config.context_length for model in (student, teacher))


def student_prompts(
    config: DistillExperiment, student: Pretrained, teacher: Pretrained, records: Records
) -> PromptSet | None:
    """Take the prompts of the student's samples from the data; None where it samples nothing."""
    if config.distill.on_policy_fraction == 0:
        return None
    room = shortest_context(student, teacher) - config.sampling.max_new_tokens
    prompts = make_prompts(
        records.train,
        config.data,
        student.tokenizer,
        prompt_tokens=config.distill.prompt_tokens,
        limit=min(room, config.data.sequence_length),
    )
    print(f"the student samples after {len(prompts)} prompts")
    return prompts


def make_learner(
    config: DistillExperiment,
    student: Pretrained,
    teacher: Pretrained,
    data: Data,
    prompts: PromptSet | None,
) -> Learner:
    """Put models, data and prompts together."""
    distill, size = config.distill, config.distill.batch_size
    model, teacher_model = build_model(config.model, student), build_model(config.teacher, teacher)
    optimizer, learning_rate = make_rate(config)
    part = make_part(config, student.params)
    compose = part.trainable.compose

    def init() -> DistillState:
        params = {"policy": part.policy()}
        step = jax.numpy.int32(0)
        return DistillState(params, optimizer.init(params), step, teacher.params, part.base)

    def batch(step: int) -> Any:
        on_policy, number = batch_kind(step, distill.on_policy_fraction)
        if not on_policy or prompts is None:
            return data.train.batch(number, batch_size=size, seed=config.seed)
        chosen = batch_indices(number, size=len(prompts), batch_size=size, seed=config.seed)
        width = -(-prompts.max_tokens // config.prompt_multiple) * config.prompt_multiple
        return make_batch(prompts, chosen, pad_id=student.pad_token_id, length=width)

    return Learner(
        init=init,
        update=make_update(
            model,
            teacher_model,
            distill,
            config.sampling,
            student.eos_token_ids,
            student.pad_token_id,
            optimizer,
            learning_rate,
            compose,
        ),
        evaluate=make_evaluate(model, teacher_model, distill, compose),
        batch=batch,
        eval_batches=held_out_batches(data.held_out, size),
        finish=lambda means: means | {"perplexity": math.exp(min(means["cross_entropy"], 700.0))},
        saved=lambda state: part.saved(state)._replace(teacher=()),
        restored=lambda state: part.restored(state)._replace(teacher=teacher.params),
    )


def prepare(config: DistillExperiment, mesh: Mesh | None) -> Prepared:
    """Read the data, load both models, and put them together."""
    found = read_found(config.data)  # what is wrong there costs no loading
    with host_memory(mesh):
        student = load_start(config)
        teacher = load_model(config.teacher.source, config.teacher.dtype)
    records = read_documents(config.data, student.tokenizer, found)
    check_vocabulary(student, teacher)
    data = make_data(
        records,
        config.data,
        student.tokenizer,
        student.eos_token_ids,
        context_length=shortest_context(student, teacher),
    )
    print(data.summary)
    prompts = student_prompts(config, student, teacher, records)
    learner = make_learner(config, student, teacher, data, prompts)
    placement = Placement(make_layout(mesh, student.model.config, teacher.model.config))
    return Prepared(student, data.train, learner, placement, distillation_alarms(config))


def main(argv: list[str] | None = None) -> None:
    config, dry_run = parse_training(
        "configs/distill_arithmetic.py", argv, DistillExperiment, __doc__ or ""
    )
    with plain_errors():
        enable_compilation_cache()
        mesh = open_mesh(config.mesh)
        if dry_run:
            check_supervised(config, lambda _: prepare(config, mesh))
            return
        with open_run(config.workdir, config, ignore=CHANGEABLE, name="distill") as run:
            print(f"run directory: {run.directory}")
            ready = prepare(config, mesh)
            run_supervised(config, ready.learner, run, ready.placement, ready.alarms)


if __name__ == "__main__":
    main()
