"""Find the policy that a flag names: built in, one of the task's baselines, or one's own function.

A spec is `NAME?key=value&key=value`, as that of a task; `+` and `&` in a value are %2B and %26.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rljax.policies.random_words import RandomWords
from rljax.policies.retrieval import Retrieval
from rljax.policies.templates import FunctionPolicy, Template
from rljax.specs import SpecError, construct, load_module, split_spec
from rljax.tasks.language import Example, TextPolicy
from rljax.tasks.sources import DataError


class Fittable(Protocol):
    """Settings of a policy; its dataclass fields are what a spec may set."""

    def fit(self, train: Sequence[Example]) -> TextPolicy:
        """Make the policy from the training examples."""
        ...


BUILT_IN: dict[str, type[Fittable]] = {
    "random": RandomWords,
    "retrieval": Retrieval,
    "template": Template,
}
"""The policies of this package, by short name."""


def load_text_policy(
    spec: str, train: Sequence[Example], baselines: Callable[[], Mapping[str, TextPolicy]]
) -> TextPolicy:
    """Make the policy that a spec names.

    baselines: gives those of the task, which come before the built-in ones of the same name; a spec
    with settings is always a built-in one. Own policies are `path/to/file.py:NAME` or
    `package.module:NAME`, a function of the list of observations or a `TextPolicy`. Raises
    SpecError where there is no such policy or a setting does not fit, and DataError where it cannot
    be made from the training examples.
    """
    if ":" in spec.partition("?")[0]:
        return _load_own(spec)
    name, settings = split_spec(spec)
    given = {} if settings else baselines()
    if name in given:
        return given[name]
    if name not in BUILT_IN:
        known = sorted({*BUILT_IN, *baselines()})
        raise SpecError(
            f"no policy {name!r} for this task: there are {known}, 'model', 'reference', "
            "'model:SOURCE', 'run:DIRECTORY', 'path/to/file.py:function' and "
            "'package.module:function'"
        )
    if not train and name != "template":
        raise DataError(
            f"the policy {name} learns from right answers: it needs a language task, or prompts "
            "with a field 'answer'"
        )
    return construct(BUILT_IN[name], settings, what=f"the policy {spec!r}").fit(train)


def _load_own(spec: str) -> TextPolicy:
    source, _, name = spec.rpartition(":")
    module = load_module(source, what=f"policy {spec!r}")
    found: Any = getattr(module, name, None)
    if isinstance(found, type):
        raise SpecError(f"policy {spec!r}: {name} is a class; name an object of it, or a function")
    if callable(getattr(found, "act", None)):
        return found
    if not callable(found):
        known = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        raise SpecError(f"policy {spec!r}: {source} has no function {name!r}; it has {known}")
    return FunctionPolicy(found)


def write(policy: TextPolicy, observations: Sequence[str], *, name: str) -> list[str]:
    """Let a policy act, and see that it writes one text for each observation.

    Raises DataError naming the policy where it does not.
    """
    texts = policy.act(observations)
    if not isinstance(texts, list) or len(texts) != len(observations):
        count = len(texts) if isinstance(texts, list) else type(texts).__name__
        raise DataError(f"the policy {name} wrote {count} texts for {len(observations)} prompts")
    for text in texts:
        if not isinstance(text, str):
            raise DataError(f"the policy {name} wrote {text!r}, which is no text")
    return texts
