"""Rule rewards and the sentiment lexicon, by hand."""

import pytest

from rljax.rewards.rules import keyword_reward, length_reward, regex_reward
from rljax.rewards.sentiment import vader_compound


def test_length():
    assert length_reward(3)(["p"] * 3, ["one two three", "one", ""]) == [0.0, -2.0, -3.0]
    with pytest.raises(ValueError, match="negative"):
        length_reward(-1)


def test_keywords_are_whole_words_in_any_case():
    reward = keyword_reward(["Sun", "c++"])
    texts = ["the SUN rises", "sunny", "sun and C++.", ""]
    assert reward(["p"] * 4, texts) == [0.5, 0.0, 1.0, 0.0]
    for bad in ([], "sun"):
        with pytest.raises(ValueError, match="keywords"):
            keyword_reward(bad)


def test_regex():
    assert regex_reward(r"^\d+$")(["p"] * 2, ["123", "a1"]) == [1.0, 0.0]
    with pytest.raises(ValueError, match="regular expression"):
        regex_reward("(")


def test_sentiment_of_the_completion_alone():
    pytest.importorskip("vaderSentiment")
    prompts = ["This wonderful, great film", "p", "p"]
    scores = vader_compound(
        prompts, ["was terrible and boring.", "I love it!", ""], label=[1, 2, 3]
    )
    assert scores[0] < -0.3
    assert scores[1] > 0.3
    assert scores[2] == 0.0
    assert vader_compound(["p"], ["VADER is smart, handsome, and funny."]) == [0.8316]
