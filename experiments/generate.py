"""Let a language model write: after prompts, or in a conversation.

    python experiments/generate.py --model smollm2-135m-instruct --prompt "The film was"
    python experiments/generate.py --run runs/ppo-20260101-120000 --prompts mine.jsonl --json
    python experiments/generate.py --model smollm2-135m-instruct --interactive

Prompts come from --prompt (as often as you like), from a file, or one a line from stdin. With --run
the sampling flags start from the run's, if its kind has any.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro
from jinja2 import TemplateError

from rljax import compiler
from rljax.algorithms.checks import require_positive
from rljax.errors import UserError
from rljax.rollout.continuous import make_continuous_sampler
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import pad_prompts
from rljax.tasks.evaluation import decode_completions
from rljax.tasks.prompts import special_prefix
from rljax.tasks.sources import read_rows
from rljax.training.compilation import announce, enable_compilation_cache
from rljax.training.flags import plain_errors, validate
from rljax.training.policies import PolicyFlags, load_policy
from rljax.training.run import read_part
from rljax.types import Prompts

SMALLEST_WIDTH = 32


@dataclasses.dataclass(frozen=True)
class Generate(PolicyFlags):
    """Sample completions of prompts, or chat."""

    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A prompt; may be given several times."""
    prompts: str | None = None
    """A .jsonl, .csv, .tsv, .parquet or .txt file of prompts, a directory of them, or hf:NAME."""
    prompt_column: str = "prompt"
    """Field of the records that holds the prompt; plain text has none."""
    num_samples: int = 1
    """Completions of each prompt."""
    batch_size: int = 16
    """Completions that are asked for at once; with --sampling.slots, so many of them go through
    the slots."""
    chat: bool = False
    """Ask through the model's chat template, with the prompt as the user's message."""
    system: str | None = None
    """System message of the chat."""
    interactive: bool = False
    """Chat in the terminal; /reset forgets the conversation, /exit or Ctrl-D ends it."""
    json: bool = False
    """Write a JSON object a line instead of text."""
    seed: int = 0
    """Of the sampling: the same seed writes the same completions."""
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=64)

    def validate(self) -> None:
        """Raise ValueError for flags that cannot go together."""
        super().validate()
        require_positive(self, ("num_samples", "batch_size"))
        self.sampling.require_queue(self.batch_size)
        if self.system is not None and not (self.chat or self.interactive):
            raise ValueError("--system needs --chat or --interactive")
        if self.prompt and self.prompts:
            raise ValueError("give --prompt or --prompts, not both")
        several = self.num_samples > 1 or self.sampling.slots is not None
        if self.interactive and (self.prompt or self.prompts or self.json or several):
            raise ValueError(
                "--interactive reads from the terminal and answers once: leave out --prompt, "
                "--prompts, --num-samples, --sampling.slots and --json"
            )


class Written(NamedTuple):
    """One completion."""

    text: str
    tokens: int
    """Tokens, EOS included."""
    log_prob: float
    """Of the whole completion, in nats, under the distribution sampled from."""
    ended: bool
    """Whether it ended by itself, and not at max_new_tokens."""


class Request(NamedTuple):
    """One completion to write: the tokens before it, and what its noise is drawn from."""

    tokens: Sequence[int]
    prompt: int
    sample: int


class Generator:
    """A policy that completes prompts; it compiles for few widths only."""

    def __init__(self, options: Generate) -> None:
        pretrained = load_policy(options).pretrained
        self.params, self.tokenizer = pretrained.params, pretrained.tokenizer
        self.eos, self.pad = pretrained.eos_token_ids, pretrained.pad_token_id
        self.sample = compiler.jit(
            make_continuous_sampler(pretrained.model, options.sampling, self.eos, self.pad)
        )
        self.key = jax.random.key(options.seed)
        context = pretrained.model.config.context_length
        self.new = options.sampling.max_new_tokens
        self.room = context - self.new
        if self.room < 1:
            raise UserError(
                f"the model's context of {context} tokens leaves no room for a prompt beside "
                f"{self.new} new tokens: lower --sampling.max-new-tokens"
            )

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text that is to be continued."""
        return special_prefix(self.tokenizer) + self.tokenizer.encode(
            text, add_special_tokens=False
        )

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Return the tokens of a conversation that is to be answered."""
        if not self.tokenizer.chat_template:
            raise UserError("the model's tokenizer has no chat template: it continues texts only")
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise UserError(f"the chat template refuses the conversation: {error}") from error
        return self.tokenizer.encode(text, add_special_tokens=False)

    def write(self, requests: Sequence[Request]) -> list[Written]:
        """Write completions, as one batch."""
        longest = max(len(request.tokens) for request in requests)
        tokens, mask = pad_prompts(
            [request.tokens for request in requests],
            pad_id=self.pad,
            length=padded_width(longest, self.room),
        )
        ids = np.asarray([request.prompt for request in requests], np.int32)
        samples = np.asarray([request.sample for request in requests], np.int32)
        with announce(f"the sampler for prompts of up to {tokens.shape[1]} tokens"):
            made = jax.device_get(
                self.sample(self.params, None, Prompts(tokens, mask, ids, samples), self.key)
            )
        texts = decode_completions(self.tokenizer, made)
        lengths = made.mask.sum(axis=1)
        return [
            Written(
                text,
                int(length),
                float(made.log_probs[row].sum()),
                int(made.tokens[row, length - 1]) in self.eos,
            )
            for row, (text, length) in enumerate(zip(texts, lengths, strict=True))
        ]


def padded_width(longest: int, room: int) -> int:
    """Round a prompt's length up to 32, 64, 128, ..., or the room that there is."""
    width = SMALLEST_WIDTH
    while width < longest:
        width *= 2
    return min(width, room)


def read_prompts(options: Generate) -> list[str]:
    """Return the prompts that the flags name, or those on stdin."""
    if options.prompt:
        return list(options.prompt)
    if options.prompts:
        return [
            row.text
            for row in read_rows(
                options.prompts, column=options.prompt_column, flag="--prompt-column"
            )
        ]
    if sys.stdin.isatty():
        raise UserError("no prompt: give --prompt or --prompts, pipe some in, or --interactive")
    lines = [line.rstrip("\r\n") for line in sys.stdin]
    return [line for line in lines if line.strip()]


def encode_prompts(generator: Generator, options: Generate, prompts: list[str]) -> list[list[int]]:
    """Return each prompt's tokens; UserError for one that is empty or does not fit."""
    encoded = []
    system = [] if options.system is None else [{"role": "system", "content": options.system}]
    for number, text in enumerate(prompts, start=1):
        if options.chat:
            tokens = generator.encode_chat([*system, {"role": "user", "content": text}])
        else:
            tokens = generator.encode(text)
        if not tokens:
            raise UserError(f"prompt {number} is empty: there is nothing to continue")
        if len(tokens) > generator.room:
            raise UserError(
                f"prompt {number} has {len(tokens)} tokens, but the model's context leaves room "
                f"for {generator.room} beside {generator.new} new ones: shorten it, or lower "
                "--sampling.max-new-tokens"
            )
        encoded.append(tokens)
    return encoded


def completions(
    generator: Generator, encoded: list[list[int]], options: Generate
) -> Iterator[tuple[Request, Written]]:
    """Write all samples of all prompts, batch by batch."""
    requests = [
        Request(tokens, prompt, sample)
        for prompt, tokens in enumerate(encoded)
        for sample in range(options.num_samples)
    ]
    size = min(options.batch_size, len(requests))
    for start in range(0, len(requests), size):
        batch = requests[start : start + size]
        filled = batch + batch[:1] * (size - len(batch))  # one shape for all batches
        yield from zip(batch, generator.write(filled), strict=False)


def generate(options: Generate) -> None:
    """Complete the prompts and print each completion as soon as its batch is written."""
    prompts = read_prompts(options)
    if not prompts:
        raise UserError("there is no prompt on stdin")
    generator = Generator(options)
    encoded = encode_prompts(generator, options, prompts)
    several = len(prompts) * options.num_samples > 1
    for request, written in completions(generator, encoded, options):
        prompt = prompts[request.prompt]
        if options.json:
            row = {"prompt": prompt, "sample": request.sample, "completion": written.text}
            row |= {key: getattr(written, key) for key in ("tokens", "log_prob", "ended")}
            print(json.dumps(row, ensure_ascii=False), flush=True)
            continue
        if several:
            print(f"=== prompt {request.prompt + 1}, sample {request.sample + 1} ===")
        print(written.text if options.chat else prompt + written.text, flush=True)


def fit_conversation(
    generator: Generator, system: list[dict[str, str]], messages: list[dict[str, str]]
) -> tuple[list[int], int]:
    """Forget the oldest exchanges until the rest fits: its tokens, and how many were forgotten.

    Raises UserError when the last message alone does not fit; `messages` is cut in place.
    """
    forgotten = 0
    while True:
        tokens = generator.encode_chat(system + messages)
        if len(tokens) <= generator.room:
            return tokens, forgotten
        if len(messages) == 1:
            raise UserError(
                f"this message makes {len(tokens)} tokens, and {generator.room} fit beside a reply "
                f"of {generator.new}"
            )
        del messages[:2]
        forgotten += 1


def read_messages() -> Iterator[str]:
    """Yield what the user types until /exit, Ctrl-D or Ctrl-C."""
    try:
        while (message := input("> ").strip()) != "/exit":
            if message:
                yield message
    except (EOFError, KeyboardInterrupt):
        print()


def chat(options: Generate) -> None:
    """Answer what is typed, with the conversation so far in view."""
    generator = Generator(options)
    system = [] if options.system is None else [{"role": "system", "content": options.system}]
    fit_conversation(generator, system, [{"role": "user", "content": "."}])
    print("/reset forgets the conversation, /exit or Ctrl-D ends it")
    history: list[dict[str, str]] = []
    for turn, message in enumerate(read_messages()):
        if message == "/reset":
            history = []
            print("(the conversation is forgotten)")
            continue
        asked: list[dict[str, Any]] = [*history, {"role": "user", "content": message}]
        try:
            tokens, forgotten = fit_conversation(generator, system, asked)
        except UserError as error:
            print(f"({error}; it is left out)")
            continue
        if forgotten:
            what = "exchange is" if forgotten == 1 else f"{forgotten} exchanges are"
            print(f"(the context is full: the oldest {what} forgotten)")
        written = generator.write([Request(tokens, turn, 0)])[0]
        print(written.text.strip() + ("" if written.ended else " [...]"), flush=True)
        history = [*asked, {"role": "assistant", "content": written.text}]


def parse(argv: list[str] | None) -> Generate:
    """Read the flags; those of sampling start from the run's, if there is a run."""
    options = tyro.cli(Generate, args=argv, description=__doc__)
    with plain_errors():
        if options.run is not None:
            sampling = read_part(options.run, "sampling", SamplingConfig)
            # slots go with a batch size, which is not the run's here; 8 bits with its training
            alike = dataclasses.replace((sampling or SamplingConfig()).exact(), slots=None)
            default = Generate(sampling=alike)
            options = tyro.cli(Generate, args=argv, default=default, description=__doc__)
        validate(options)
    return options


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    with plain_errors():
        enable_compilation_cache()
        if options.interactive:
            chat(options)
        else:
            generate(options)


if __name__ == "__main__":
    main()
