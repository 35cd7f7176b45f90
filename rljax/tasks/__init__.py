"""Say what is asked and how it is judged: prompts, their order, and the reward."""

from rljax.tasks.config import TaskConfig
from rljax.tasks.order import batch_indices
from rljax.tasks.prompts import PromptSet, make_batch, pad_prompts
from rljax.tasks.sources import DataError
from rljax.tasks.task import Task, make_task, read_prompts, stop_token_ids

__all__ = [
    "DataError",
    "PromptSet",
    "Task",
    "TaskConfig",
    "batch_indices",
    "make_batch",
    "make_task",
    "pad_prompts",
    "read_prompts",
    "stop_token_ids",
]
