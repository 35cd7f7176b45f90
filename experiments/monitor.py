"""Watch a stream of documents: score each, average the last ones, raise an alarm.

    tail -f news.txt | python experiments/monitor.py --policy lexicon
    tail -f news.txt | python experiments/monitor.py --run runs/tasks/finance --policy model
    python experiments/monitor.py --file news.jsonl --field headline --follow --policy vader \\
        --alarm.below -0.2 --command 'mail -s alarm me@example.com'

One document a line, from a file or from stdin. For each, a line of JSON goes to stdout at once:
line, score in [-1, 1], label, average of the last `--alarm.window` scores, and the alarm that is
on. An alarm is a line of its own, with `event`, when the average crosses a threshold and when it
has come back. Malformed lines are counted and said on stderr, where a summary stands at the end.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import tyro

from rljax.errors import UserError
from rljax.policies.loading import load_text_policy
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig, stop_token_ids
from rljax.tasks.classification import vader_compound
from rljax.tasks.finance import read_lexicon
from rljax.tasks.labels import LabelTask
from rljax.tasks.language import load_task, read_examples
from rljax.tasks.monitoring import (
    Alarm,
    AlarmConfig,
    Document,
    Judge,
    follow,
    numeric_judge,
    policy_judge,
    read_stream,
)
from rljax.tasks.task import text_encoder
from rljax.training.compilation import enable_compilation_cache
from rljax.training.flags import plain_errors, validate
from rljax.training.language_policy import LanguageModelPolicy
from rljax.training.policies import PolicyFlags, load_policy
from rljax.training.run import read_part

MODEL, LEXICON, VADER = "model", "lexicon", "vader"
COMMAND_TIMEOUT_S = 60
TONES = {"positive": 1.0, "negative": -1.0}


@dataclasses.dataclass(frozen=True)
class Monitor(PolicyFlags):
    """Score a stream of documents and raise an alarm."""

    policy: str = LEXICON
    """What scores: lexicon (Loughran and McDonald's words), vader, model (that of --run or
    --model), or a policy of the task's, such as supervised, which learns from all its examples."""
    task: str | None = None
    """The task whose question and labels are used; None: that of --run, or finance."""
    values: str | None = None
    """Scores of labels, as good=1,bad=-1, where they are not positive (1) and negative (-1)."""
    file: str | None = None
    """Where the documents are; None: stdin."""
    follow: bool = False
    """Go on reading what is appended to the file, until interrupted."""
    poll_s: float = 0.5
    """Seconds between looks at the end of the file; with `follow`."""
    field: str | None = None
    """Lines are JSON objects, and this field is the document; None: the line is."""
    encoding: str = "utf-8"
    """Of the lines."""
    alarm: AlarmConfig = AlarmConfig()
    command: str | None = None
    """Shell command to run when an alarm is raised or called off; it gets the line of JSON on
    stdin. Where it fails, that is said, and the stream goes on."""
    alarm_exit: int | None = None
    """Stop at the first alarm with this exit code; None: go on."""
    max_bad_lines: int | None = None
    """Stop with an error beyond so many malformed lines; None: never."""
    batch_multiple: int = 64
    """Documents are padded to a multiple of this many tokens: few shapes, few compilations."""

    def validate(self) -> None:
        """Raise ValueError for flags that cannot go together."""
        if self.policy == MODEL or self.run is not None or self.model is not None:
            super().validate()
        if self.policy != MODEL and (self.run is not None or self.model is not None):
            raise ValueError(f"policy is {self.policy!r}: --run and --model need --policy model")
        if self.policy in (LEXICON, VADER):
            for name in ("task", "values"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is of policies that say labels, not {self.policy}")
        if self.follow and self.file is None:
            raise ValueError("follow is for a file: give --file, or pipe `tail -f` in")
        if self.poll_s <= 0 or (self.poll_s != Monitor.poll_s and not self.follow):
            raise ValueError(f"poll_s is {self.poll_s}; it must be positive, and needs --follow")
        if self.alarm_exit is not None and not 1 <= self.alarm_exit <= 255:
            raise ValueError(f"alarm_exit is {self.alarm_exit}; exit codes are from 1 to 255")
        if self.max_bad_lines is not None and self.max_bad_lines < 0:
            raise ValueError(f"max_bad_lines is {self.max_bad_lines}; it must be at least 0")
        if self.batch_multiple < 1:
            raise ValueError(f"batch_multiple is {self.batch_multiple}; it must be at least 1")
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise ValueError(f"encoding is {self.encoding!r}, which Python does not know") from None


def parse_values(text: str, labels: tuple[str, ...]) -> dict[str, float]:
    """Read `good=1,bad=-1`. Raises UserError for other forms, labels and values."""
    values = {}
    for pair in text.split(","):
        label, _, value = pair.rpartition("=")
        if label not in labels:
            raise UserError(f"--values {text!r}: {label!r} is none of the labels {list(labels)}")
        try:
            values[label] = float(value)
        except ValueError:
            raise UserError(f"--values {text!r}: {value!r} is no number") from None
        if not -1 <= values[label] <= 1:
            raise UserError(f"--values {text!r}: scores are in [-1, 1]")
    return values


def load_label_task(options: Monitor) -> tuple[LabelTask, TaskConfig]:
    """Load the task whose labels are said, and how the run asks."""
    config = (read_part(options.run, "task", TaskConfig) if options.run else None) or TaskConfig(
        prompts=options.task or "finance", prompt_tokens=None, reward="task"
    )
    if config.few_shot:
        raise UserError("a run with --task.few-shot asks with solved examples: not here")
    spec = options.task or config.prompts
    task = load_task(spec)
    if not isinstance(task, LabelTask):
        raise UserError(f"the task {spec!r} has no labels to say: name one by --task")
    return task, dataclasses.replace(config, prompts=spec)


def make_judge(options: Monitor) -> Judge:
    """Make what scores a document."""
    if options.policy == LEXICON:
        return numeric_judge(read_lexicon().polarity)
    if options.policy == VADER:
        return numeric_judge(vader_compound())
    task, config = load_label_task(options)
    labels = task.all_labels()
    values = TONES if options.values is None else parse_values(options.values, labels)
    if not set(values) & set(labels):
        raise UserError(f"the labels {list(labels)} have no scores: give --values LABEL=SCORE,...")
    if options.policy != MODEL:
        examples = read_examples(config.prompts)
        policy = load_text_policy(options.policy, examples, lambda: task.baselines(examples))
        return policy_judge(policy, task.ask, labels, values)
    pretrained = load_policy(options).pretrained
    trained = read_part(options.run, "sampling", SamplingConfig) if options.run else None
    sampling = (trained or SamplingConfig(max_new_tokens=8)).exact()
    sampling = dataclasses.replace(sampling, temperature=0.0, slots=None)  # greedy, one by one
    room = pretrained.model.config.context_length - sampling.max_new_tokens
    policy = LanguageModelPolicy(
        pretrained,
        sampling,
        text_encoder(config, pretrained.tokenizer, "", limit=room),
        stop_token_ids=stop_token_ids(config, pretrained.tokenizer),
        batch_size=1,
        multiple=options.batch_multiple,
    )
    return policy_judge(policy, task.ask, labels, values)


def say(record: dict[str, Any]) -> None:
    """Write a line of JSON, at once."""
    print(json.dumps(record, ensure_ascii=False), flush=True)


def run_command(command: str, record: dict[str, Any]) -> None:
    """Run the user's command with the alarm on its stdin, and say where it fails."""
    try:
        done = subprocess.run(
            command,
            shell=True,
            input=json.dumps(record) + "\n",
            text=True,
            stdout=2,  # stdout is for lines of JSON
            timeout=COMMAND_TIMEOUT_S,
        )
        problem = f"ended with {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"took more than {COMMAND_TIMEOUT_S} s and was ended"
    if problem:
        print(f"the command {command!r} {problem}", file=sys.stderr, flush=True)


class Watch:
    """The state of a stream: what was read, what was bad, and the alarm."""

    def __init__(self, options: Monitor, judge: Judge) -> None:
        self.options, self.judge, self.alarm = options, judge, Alarm(options.alarm)
        self.documents = self.bad = self.alarms = 0

    def take(self, document: Document) -> bool:
        """Score one document and say so; return whether an alarm was raised."""
        if document.problem:
            self._take_bad(document)
            return False
        try:
            score, label = self.judge(document.text)
        except UserError as error:  # of this document: it is too long for the model
            self._take_bad(document._replace(problem=str(error)))
            return False
        changes = self.alarm.update(score)
        self.documents += 1
        average = round(self.alarm.average, 6)
        line = {"line": document.line, "score": round(score, 6), "label": label}
        say(line | {"average": average, "alarm": self.alarm.active, "text": document.text})
        for change in changes:
            event = {"event": f"alarm {change.state}", "alarm": change.alarm, "average": average}
            event |= {"threshold": getattr(self.options.alarm, change.alarm)}
            record = event | {"line": document.line, "text": document.text}
            say(record)
            if self.options.command is not None:
                run_command(self.options.command, record)
        raised = any(change.state == "raised" for change in changes)
        self.alarms += raised
        return raised

    def _take_bad(self, document: Document) -> None:
        self.bad += 1
        where = f"{self.options.file or 'stdin'}:{document.line}"
        print(f"{where}: bad line: {document.problem}", file=sys.stderr, flush=True)
        limit = self.options.max_bad_lines
        if limit is not None and self.bad > limit:
            raise UserError(f"{where}: more than {limit} bad lines (--max-bad-lines)")

    def summary(self) -> str:
        """Say what there was."""
        return f"{self.documents} documents, {self.bad} bad lines, {self.alarms} alarms raised"


def open_lines(options: Monitor) -> tuple[IO[bytes], Iterator[bytes]]:
    """Open the file, or stdin; UserError where that fails."""
    if options.file is None:
        return sys.stdin.buffer, iter(sys.stdin.buffer.readline, b"")
    try:
        stream = Path(options.file).expanduser().open("rb")
    except OSError as error:
        raise UserError(f"--file {options.file}: cannot be read: {error.strerror}") from error
    if options.follow:
        return stream, follow(stream, poll_s=options.poll_s, stop=lambda: False)
    return stream, iter(stream.readline, b"")


def watch(options: Monitor) -> int:
    """Read the stream to its end; return the exit code."""
    stream, lines = open_lines(options)
    seen = Watch(options, make_judge(options))
    code = 0
    try:
        for document in read_stream(lines, field=options.field, encoding=options.encoding):
            if seen.take(document) and options.alarm_exit is not None:
                code = options.alarm_exit
                break
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # nobody reads on: `monitor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        stream.close()
        print(seen.summary(), file=sys.stderr, flush=True)
    return code


def main(argv: list[str] | None = None) -> None:
    options = tyro.cli(Monitor, args=argv, description=__doc__)
    with plain_errors():
        validate(options)
        enable_compilation_cache()
        code = watch(options)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
