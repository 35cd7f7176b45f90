"""Score the sentiment of completions with the VADER lexicon."""

import functools
from collections.abc import Sequence
from typing import Any


@functools.cache
def _analyzer() -> Any:
    """Load the lexicon once."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise ImportError(
            "the 'sentiment' reward needs the package vaderSentiment: pip install vaderSentiment"
        ) from error
    return SentimentIntensityAnalyzer()


def vader_compound(
    prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
) -> list[float]:
    """Return VADER's compound sentiment of each completion alone, in [-1, 1].

    -1 is most negative, 1 most positive, 0 neutral or empty. Hutto and Gilbert 2014
    (https://ojs.aaai.org/index.php/ICWSM/article/view/14550). Raises ImportError without the
    package vaderSentiment.
    """
    del prompts, columns
    analyzer = _analyzer()
    return [analyzer.polarity_scores(completion)["compound"] for completion in completions]
