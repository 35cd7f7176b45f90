"""The alarm of a stream: its average, its thresholds, and what counts as a document."""

import io
import math

import pytest

from rljax.tasks.monitoring import (
    Alarm,
    AlarmConfig,
    Judged,
    follow,
    numeric_judge,
    policy_judge,
    read_stream,
)


def states(config: AlarmConfig, scores) -> list[str]:
    alarm = Alarm(config)
    return [
        " ".join(f"{change.alarm} {change.state}" for change in alarm.update(score))
        for score in scores
    ]


def test_the_average_is_over_the_last_scores():
    alarm = Alarm(AlarmConfig(window=3, min_documents=3))
    assert math.isnan(alarm.average)
    for score, average in ((0.3, 0.3), (0.5, 0.4), (0.4, 0.4), (-0.9, 0.0), (0.2, -0.1)):
        alarm.update(score)
        assert alarm.average == pytest.approx(average)


def test_an_alarm_is_raised_once_and_called_off_past_the_release():
    config = AlarmConfig(window=1, min_documents=1, below=-0.3, release=0.2)
    scores = [0, -0.3, -0.25, -0.31, -0.11, -0.09, -0.29, -0.5]
    assert states(config, scores) == [
        "", "below raised", "", "", "", "below called off", "", "below raised",
    ]  # fmt: skip
    without = AlarmConfig(window=1, min_documents=1, below=-0.3, release=0.0)
    assert states(without, scores)[2:4] == ["below called off", "below raised"]


def test_no_alarm_before_there_are_enough_documents():
    config = AlarmConfig(window=4, min_documents=3, below=-0.3)
    assert states(config, [-1, -1, -1]) == ["", "", "below raised"]


def test_both_sides():
    config = AlarmConfig(window=1, min_documents=1, below=-0.5, above=0.5)
    assert states(config, [-1, 1, 0.41, 0.39]) == [
        "below raised", "below called off above raised", "", "above called off",
    ]  # fmt: skip
    only = AlarmConfig(window=1, min_documents=1, below=None, above=0.5)
    assert states(only, [-1, 0.5]) == ["", "above raised"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"min_documents": 21}, "min_documents is 21; it must be from 1 to window 20"),
        ({"release": -0.1}, "release is -0.1"),
        ({"below": -2.0}, "below is -2.0"),
        ({"below": None}, "both None"),
        ({"below": 0.0, "above": 0.2}, "less than two release"),
    ],
)
def test_an_alarm_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AlarmConfig(**fields)


def test_lines_are_documents_and_bad_ones_are_told_apart():
    lines = [b"\xef\xbb\xbffirst\n", b"\n", "caf\u00e9\r\n".encode(), b"\xff\n", b"last"]
    found = list(read_stream(iter(lines), field=None, encoding="utf-8"))
    assert [(d.line, d.text) for d in found] == [
        (1, "first"),
        (3, "caf\u00e9"),
        (4, ""),
        (5, "last"),
    ]
    assert found[2].problem == "not utf-8 at byte 0"
    latin = list(read_stream(iter([b"\xe9t\xe9\n"]), field=None, encoding="latin-1"))
    assert latin[0].text == "\u00e9t\u00e9"


def test_a_field_of_json_is_the_document():
    lines = [b'{"t": "a  b"}\n', b"{\n", b"[]\n", b'{"x": 1}\n', b'{"t": 3}\n', b'{"t": " "}\n']
    found = list(read_stream(iter(lines), field="t", encoding="utf-8"))
    assert found[0].text == "a b"
    problems = [
        "",
        "expected a JSON object: ",
        "got a list",
        "text in 't', found",
        "is 3",
        "is ' '",
    ]
    assert all(part in d.problem for part, d in zip(problems, found, strict=True))
    assert all(not d.text for d in found[1:])


def test_following_waits_for_the_end_of_a_line():
    stream = io.BytesIO()
    written = [b"one\ntw", b"o\n", b"three"]

    def stop() -> bool:
        if not written:
            return True
        place = stream.tell()
        stream.write(written.pop(0))
        stream.seek(place)
        return False

    assert list(follow(stream, poll_s=0.001, stop=stop)) == [b"one\n", b"two\n", b"three"]


def test_judges_of_numbers_and_of_labels():
    judge = numeric_judge(lambda text: len(text) / 10 - 0.2)
    assert [judge(t).label for t in ("", "ab", "abc")] == ["negative", "neutral", "positive"]

    class Echo:
        def act(self, observations):
            return [o.removesuffix("?") for o in observations]

    labels = policy_judge(Echo(), lambda t: t + "?", ("good", "bad"), {"good": 1.0, "bad": -0.5})
    assert labels("Bad") == Judged(-0.5, "bad")
    assert labels("unknown") == Judged(0.0, "unknown")
    assert labels("so so") == Judged(0.0, None)
