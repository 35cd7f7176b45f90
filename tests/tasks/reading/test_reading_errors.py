"""What is wrong with a file is said with its line and a remedy, or counted; nothing is half-run."""

import importlib.util
from pathlib import Path

import pytest

import rljax
from rljax.experiment import PPOExperiment
from rljax.tasks import TaskConfig, read_prompts
from rljax.tasks.documents import DocumentConfig, read_documents, read_found
from rljax.tasks.reading.errors import BadLines
from rljax.tasks.reading.fields import Labels
from rljax.tasks.sources import DataError, read_rows
from rljax.training import setup


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", '{"promt": "a"}\n', r"a.jsonl:1: .*'promt'.*did you mean 'promt'"),
        ("a.jsonl", '{"prompt": 3}\n', r"a.jsonl:1: expected a text in 'prompt'.*got 3 \(int\)"),
        ("a.jsonl", '{"prompt": null}\n', r"a.jsonl:1: .*got None"),
        ("a.jsonl", '{"prompt": ["a"]}\n', r"a.jsonl:1: .*got \['a'\] \(list\)"),
        ("a.jsonl", '{"prompt": "a", "prompt": "b"}\n', r":1: .*'prompt' stands there twice"),
        ("a.jsonl", '"a"\n', r":1: expected a JSON object, got a str"),
        ("a.jsonl", '{"prompt": "a"} {"prompt": "b"}\n', r":1: .*Extra data at column 17"),
        ("a.jsonl", '{"prompt": "\\ud83d"}\n', r":1: 'prompt' holds .*half of a surrogate pair"),
        ("a.jsonl", "[" * 100_000 + "\n", r":1: expected one JSON object a line: "),
        ("a.jsonl", '{"prompt": ' + "9" * 5000 + "}\n", r":1: expected one JSON object a line: "),
        ("a.jsonl", b'{"prompt": "a"}\n\xff{"prompt": "b"}', r":2: not UTF-8: byte 0xff, the 1\."),
        ("a.jsonl", b'{"prompt": "caf\xe9"}\n', r":1: .*0xe9, the 16\. of.*--task.encoding.*latin"),
        ("a.jsonl", b'{"prompt": "\xc3\xa4\xe9"}\n', r":1: .*0xe9, the 15\. of the line"),
        ("a.jsonl", b'{"prompt": "a\0"}\n', r":1: holds a NUL \(character 14 of the line"),
        ("a.jsonl", '{"prompt": 1}\n'.encode("utf-16"), r"byte order mark of UTF-16.*encoding"),
        ("a.csv", "prompt\na\n".encode("utf-32"), r"byte order mark of UTF-32"),
        ("a.csv", "prompt\na\n".encode("utf-16-le"), r"a.csv:1: holds a NUL.*utf-16"),
        ("a.csv", "prompt,x,x\na,1,2\n", r"a.csv:1: the header names \['x'\] more than once"),
        ("a.csv", "prompt;x\na;1\n", r"a.csv:1: .*'prompt;x', which looks separated by ';'"),
        ("a.tsv", "prompt,x\na,1\n", r"a.tsv:1: expected names separated by '\\t'"),
        ("a.csv", "prompt,x\na,1\n\nb\n", r"a.csv:4: expected 2 fields \['prompt', 'x'\], got 1"),
        ("a.csv", 'prompt,x\n"a\nb",1\nc,2,3\n', r"a.csv:4: expected 2 fields"),
        ("a.csv", 'prompt,x\na,1\n"b,2\nc,3\n', r"a.csv:3: not valid CSV: a quote opens"),
        ("a.csv", 'prompt,x\n"a"b,1\n', r"a.csv:2: not valid CSV: ',' expected after"),
        ("a.csv", "Prompt,x\na,1\n", r"a.csv:2: .*'Prompt'.*did you mean 'Prompt'"),
        ("a.csv", "prompt,completions\na,1\n", r"a.csv:2: a column may not be called"),
        ("a.csv", "", "holds no prompt at all"),
        ("a.csv.gz", "prompt\na\n", "cannot be unpacked as gzip"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00cut", "cannot be unpacked as gzip"),
        ("a.json", "[]", r"cannot read '.json' files; expected.*--task.format; write one object a"),
        ("a", "[]", r"cannot read '' files"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, problem):
    with pytest.raises(DataError, match=problem):
        read_prompts(TaskConfig(prompts=write(tmp_path, name, content)))


def test_an_encoding_that_does_not_fit(tmp_path):
    path = write(tmp_path, "a.txt", b"\xff\xfea\0\n\0\x00\xd8b\0\n\0")
    with pytest.raises(DataError, match=r"a.txt:\d: not utf-16"):
        read_prompts(TaskConfig(prompts=path, encoding="utf-16"))
    path = write(tmp_path, "b.txt", "ok\nä\n")
    with pytest.raises(DataError, match=r"b.txt:2: not ASCII: byte 0xc3, the 1\. "):
        read_prompts(TaskConfig(prompts=path, encoding="ascii"))


GOOD = [f'{{"prompt": "good {i}", "completion": "c"}}'.encode() for i in range(8)]
BAD = [b"{", b'{"x": 1}', b'{"prompt": "\xe9"}', b'{"prompt": 1}', b"\0", b"[]"]


def test_bad_lines_are_counted(tmp_path):
    path = write(tmp_path, "a.jsonl", b"\n".join([*GOOD[:4], *BAD, *GOOD[4:]]))
    rows, note = read_prompts(TaskConfig(prompts=path, skip_bad_lines=True))
    assert [row.text for row in rows] == [f"good {i}" for i in range(8)]
    first = f"6 bad lines left out of {path}, the first: {path}:5: expected one JSON object"
    assert note.startswith(first)
    config = DocumentConfig(path, skip_bad_lines=True, held_out_fraction=0)
    assert len(read_documents(config).train) == 8 and first in read_documents(config).summary
    with pytest.raises(DataError, match=f"{path}:5: "):
        read_prompts(TaskConfig(prompts=path))


def test_more_bad_lines_than_good_ones_are_an_error(tmp_path):
    path = write(tmp_path, "a.jsonl", b"\n".join([*BAD, *GOOD[:5]]))
    with pytest.raises(DataError, match="6 of 11 lines are bad, which is more than half"):
        read_prompts(TaskConfig(prompts=path, skip_bad_lines=True))
    path = write(tmp_path, "a.jsonl", b"\n".join([*BAD, *GOOD[:6]]))
    assert len(read_prompts(TaskConfig(prompts=path, skip_bad_lines=True)).rows) == 6
    with pytest.raises(DataError, match="1 of 1 lines are bad"):
        read_prompts(TaskConfig(prompts=write(tmp_path, "b.jsonl", "x"), skip_bad_lines=True))


def test_bad_rows_of_csv_are_counted(tmp_path):
    text = b'prompt,x\na,1\nb\n"c"d,2\ne,"\n\xff\n"\nf,6\n"g\nh",7\ni,,\nj,8\n'
    path = write(tmp_path, "a.csv", text)
    rows, note = read_prompts(TaskConfig(prompts=path, skip_bad_lines=True))
    places = [(r.text, r.where.rsplit(":", 1)[1]) for r in rows]
    assert places == [("a", "2"), ("f", "8"), ("g\nh", "9"), ("j", "12")]
    assert note.startswith("4 bad lines")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("encoding", "latin-1"),
        ("skip_bad_lines", True),
        ("format", "csv"),
        ("conll_columns", (0, 1)),
    ],
)
def test_flags_that_say_nothing_are_errors(field, value):
    flag = field.replace("_", "-")
    for source in ("sorting:4", "reasoning-gym:chain_sum"):
        with pytest.raises(DataError, match=f"--task.{flag} says nothing about '{source}'"):
            read_prompts(TaskConfig(prompts=source, **{field: value}))
    with pytest.raises(DataError, match=f"--data.{flag} says nothing about 'sorting:4'"):
        read_found(DocumentConfig("sorting:4", **{field: value}))


def test_columns_that_say_nothing_are_errors(tmp_path):
    path = write(tmp_path, "a.csv", "prompt\na\n")
    with pytest.raises(DataError, match="--task.conll-columns says nothing about .*a file of csv"):
        read_prompts(TaskConfig(prompts=path, conll_columns=(0, 1)))
    for source in ("sorting:4", "reasoning-gym:chain_sum"):
        with pytest.raises(DataError, match="--task.prompt-column 'x' says nothing about"):
            read_prompts(TaskConfig(prompts=source, prompt_column="x"))
    with pytest.raises(DataError, match=r"'x' \(the flag --task.prompt-column names it\), found"):
        read_prompts(TaskConfig(prompts=write(tmp_path, "a.txt", "a\n"), prompt_column="x"))


def test_flags_that_cannot_be():
    for name in ("utf9", "hex", "a\0b"):
        with pytest.raises(ValueError, match="--task.encoding is .*no text encoding; such are utf"):
            TaskConfig(encoding=name)
    with pytest.raises(ValueError, match="--data.encoding"):
        DocumentConfig(encoding="nonsense")
    with pytest.raises(ValueError, match="--data.conll-columns is .1, 1.: token and tag"):
        DocumentConfig(conll_columns=(1, 1))


def test_the_format_flag_goes_before_the_ending(tmp_path):
    path = write(tmp_path, "a.data", "prompt\tx\na\t1\n")
    assert read_prompts(TaskConfig(prompts=path, format="tsv")).rows[0].columns == {"x": "1"}


def test_where_there_are_no_flags_none_are_named(tmp_path):
    with pytest.raises(DataError, match=r"0xe9, the 1\. of the line; save it as UTF-8: it may be"):
        read_rows(write(tmp_path, "a.txt", b"\xe9\n"))
    with pytest.raises(DataError, match=r"expected a .jsonl, [^-]* file$"):
        read_rows(write(tmp_path, "a.xml", b"<a/>"))


def test_labels():
    labels = Labels(["positive", "negative"], "polarity")
    assert labels.check("f:1", "positive") == "positive"
    with pytest.raises(DataError, match=r"f:2: unknown polarity 'postive' \(did you mean 'posit"):
        labels.check("f:2", "postive")
    with pytest.raises(DataError, match=r"f:3: .* 1; allowed are \['positive', 'negative'\]"):
        labels.check("f:3", 1)
    with pytest.raises(ValueError, match="at least one polarity"):
        Labels([], "polarity")


def test_counting():
    bad = BadLines(skip=True)
    assert bad.finish("f", 0) == ""
    bad.report("f:1: x")
    assert bad.finish("f", 1) == "1 bad line left out of f, the first: f:1: x"
    with pytest.raises(DataError, match="f:1: x"):
        BadLines().report("f:1: x")


def test_a_missing_file_says_what_there_could_be():
    for source in ("imbd", "", "hf:", "no/dir?split=x"):
        with pytest.raises(DataError, match=r"no prompt file|expected hf:NAME"):
            read_rows(source)


def test_prompts_are_checked_before_a_model_is_loaded(tmp_path, monkeypatch):
    def load(config):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(setup, "load_start", load)
    path = write(tmp_path, "a.jsonl", "{\n")
    with pytest.raises(DataError, match="a.jsonl:1: expected one JSON object"):
        setup.OnPolicy(PPOExperiment(task=TaskConfig(prompts=path)), None, "shared")


SCRIPTS = {
    "sft": "sft_sentiment",
    "distill": "distill_arithmetic",
    "dpo": "dpo_sentiment",
    "reward_model": "reward_model_sentiment",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_read_data_before_a_model(tmp_path, monkeypatch, capsys, name):
    path = Path(rljax.__file__).parents[1] / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"reading_{name}", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def load(*args):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(script, "load_start", load)
    monkeypatch.chdir(path.parents[1])
    monkeypatch.setenv("RLJAX_CACHE_DIR", str(tmp_path / "cache"))
    config = f"configs/{SCRIPTS[name]}.py:smoke"
    data = write(tmp_path, "a.jsonl", "{\n")
    with pytest.raises(SystemExit):
        script.main(["--config", config, "--data.source", data, "--workdir", str(tmp_path / "run")])
    captured = capsys.readouterr()
    assert f"{data}:1: expected one JSON object a line" in captured.out + captured.err
