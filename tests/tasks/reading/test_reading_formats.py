"""Every format gives the same records, to prompts, documents and preferences alike."""

import csv
import gzip
import json
import sys

import pytest

from rljax.tasks import TaskConfig, read_prompts
from rljax.tasks.documents import DocumentConfig, read_documents, read_found
from rljax.tasks.preferences import PreferenceConfig
from rljax.tasks.preferences import read_source as read_preferences
from rljax.tasks.sources import DataError, read_prompt_rows

PAIRS = [
    {"prompt": 'One, "two"', "completion": "three\nlines", "label": "good"},
    {"prompt": "Zwölf", "completion": " 北京", "label": "bad"},
    {"prompt": "A\u2028b", "completion": "x" * 200_000, "label": "good"},
]


def write(tmp_path, name, content):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def save(tmp_path, kind, records, name="data", encoding="utf-8"):
    """Write records in a format; return the file's path."""
    path = tmp_path / f"{name}.{kind}"
    if kind.startswith("parquet"):
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(records), path)
        return str(path)
    if kind.startswith("jsonl"):
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    else:
        plain = tmp_path / "plain"
        with plain.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, records[0], delimiter="\t" if "tsv" in kind else ",")
            writer.writeheader()
            writer.writerows(records)
        text = plain.read_bytes().decode()
        plain.unlink()
    raw = text.encode(encoding)
    path.write_bytes(gzip.compress(raw) if kind.endswith(".gz") else raw)
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet", "jsonl.gz", "csv.gz"])
def test_the_same_records_from_every_format(tmp_path, kind):
    source = save(tmp_path, kind, PAIRS)
    rows = read_prompts(TaskConfig(prompts=source)).rows
    assert [row.text for row in rows] == [pair["prompt"] for pair in PAIRS]
    assert rows[1].columns == {"completion": " 北京", "label": "bad"}
    found = read_found(DocumentConfig(source))
    assert [r.fields for r in found.records] == PAIRS
    assert {r.kind for r in found.records} == {"prompt"}
    kept = DocumentConfig(source, keep=("label=good",), held_out_fraction=0)
    assert len(read_documents(kept).train) == 2


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig", "cp1252"])
def test_other_encodings(tmp_path, encoding):
    records = [{"prompt": "Zwölf Boxkämpfer", "x": "é"}, {"prompt": "b", "x": "ü"}]
    source = save(tmp_path, "csv", records, encoding=encoding)
    rows = read_prompts(TaskConfig(prompts=source, encoding=encoding)).rows
    assert [{"prompt": row.text, **row.columns} for row in rows] == records


def test_gb18030(tmp_path):
    source = save(tmp_path, "jsonl", [{"text": "中华人民共和国"}], encoding="gb18030")
    found = read_found(DocumentConfig(source, encoding="gb18030"))
    assert found.records[0].texts == ["中华人民共和国"]
    with pytest.raises(DataError, match=r":1: not UTF-8: byte 0x\w\w, the 11\. .*--data.encoding"):
        read_found(DocumentConfig(source))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_columns_of_other_names(tmp_path, kind):
    records = [{"question": "Q?", "reply": "A.", "text": "T", "n": "1"}]
    source = save(tmp_path, kind, records)
    pairs = DocumentConfig(source, prompt_column="question", completion_column="reply")
    [found] = read_found(pairs).records
    assert found.kind == "prompt"
    assert found.fields == {"prompt": "Q?", "completion": "A.", "text": "T", "n": "1"}
    [found] = read_found(DocumentConfig(source, text_column="reply")).records
    assert (found.kind, found.texts) == ("text", ["A."])
    assert read_prompts(TaskConfig(prompts=source, prompt_column="question")).rows[0].text == "Q?"
    with pytest.raises(DataError, match=r"'questoin' \(the flag --data.prompt-column.*'question'"):
        read_found(DocumentConfig(source, prompt_column="questoin", completion_column="reply"))
    with pytest.raises(ValueError, match="text_column 'a' makes records of text"):
        DocumentConfig(source, text_column="a", completion_column="b")
    with pytest.raises(DataError, match="--data.text-column 'x' says nothing about 'sorting:4'"):
        read_found(DocumentConfig("sorting:4", text_column="x"))


def test_text_and_conll(tmp_path):
    lines = str(write(tmp_path, "a.txt", "One\n\n Two \n"))
    assert [row.text for row in read_prompts(TaskConfig(prompts=lines)).rows] == ["One", "Two"]
    found = read_found(DocumentConfig(lines))
    assert [r.fields for r in found.records] == [{"text": "One"}, {"text": "Two"}]
    tagged = str(write(tmp_path, "b.txt", "EU NNP B-ORG\nsays VBZ O\n\nPeter NNP B-PER\n"))
    [first, _] = read_prompts(TaskConfig(prompts=tagged, format="conll")).rows
    assert (first.text, first.columns["answer"]) == ("EU says", "B-ORG O")
    [first, _] = read_found(DocumentConfig(tagged, format="conll")).records
    assert first.texts == ["EU says", "B-ORG O"]
    swapped = str(write(tmp_path, "c.conll", "B-ORG x EU\n"))
    config = TaskConfig(prompts=swapped, conll_columns=(2, 0))
    assert read_prompts(config).rows[0].text == "EU"
    assert len(read_prompts(TaskConfig(prompts=tagged)).rows) == 3  # lines of text


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_preferences(tmp_path, kind):
    pair = {"prompt": "p", "chosen": " good", "rejected": " bad", "margin": 0.5}
    found = read_preferences(save(tmp_path, kind, [pair]))
    assert (found.kind, found.records[0].margin) == ("pair", 0.5)
    scores = [{"prompt": "p", "completion": " 1", "score": 2}]
    assert read_preferences(save(tmp_path, kind, scores)).records[0].values == (2.0,)
    labels = [{"prompt": "p", "completion": " a", "label": True}]
    assert read_preferences(save(tmp_path, kind, labels)).records[0].values == (1.0,)
    texts = [{"text": "t", "label": "negative"}]
    assert read_preferences(save(tmp_path, kind, texts)).records[0].values == (0.0,)


def test_bad_preferences(tmp_path):
    wrong = [{"prompt": "p", "completion": "c", "score": "x"}]
    with pytest.raises(DataError, match=r"csv:2: expected a finite number in 'score', got 'x'"):
        read_preferences(save(tmp_path, "csv", wrong))
    with pytest.raises(DataError, match=r"csv:2: .*got 'postive' \(did you mean 'positive'\?\)"):
        read_preferences(save(tmp_path, "csv", [{"text": "t", "label": "postive"}]))
    pair = {"prompt": "p", "chosen": " good", "rejected": " bad"}
    bad = save(tmp_path, "jsonl", [pair, {"prompt": "p"}, pair | {"prompt": "q"}])
    found = read_preferences(bad, PreferenceConfig(bad, skip_bad_lines=True))
    assert len(found.records) == 2 and "1 bad line left out" in found.note
    lists = [{"prompt": "p", "completions": '["A b", "c"]', "scores": "[1, 2]"}]
    found = read_preferences(save(tmp_path, "csv", lists))
    assert found.records[0].completions == ("A b", "c")


def test_directories_and_their_splits(tmp_path):
    for name in ("train-00000", "train-00001", "test-00000"):
        write(tmp_path, f"set/data/{name}.jsonl", f'{{"text": "{name}"}}\n')
    write(tmp_path, "set/README.md", "# A set")
    write(tmp_path, "set/.cache/train.jsonl", "broken")
    folder = tmp_path / "set"

    def texts(source):
        return [r.fields["text"] for r in read_found(DocumentConfig(source)).records]

    assert texts(f"{folder}?split=train") == ["train-00000", "train-00001"]
    assert texts(f"hf:{folder}") == ["train-00000", "train-00001"]
    assert texts(f"hf:{folder}?split=test") == ["test-00000"]
    assert texts(f"{folder}/data/test-00000.jsonl") == ["test-00000"]
    with pytest.raises(DataError, match=r"of the splits \['test', 'train'\]: say which"):
        texts(str(folder))
    with pytest.raises(DataError, match=r"no file is of the split 'dev'; there are"):
        texts(f"{folder}?split=dev")
    with pytest.raises(DataError, match=r"expected split=NAME after '\?', got 'slpit=train'"):
        texts(f"{folder}?slpit=train")
    write(tmp_path, "set/train.csv", "text\na\n")
    with pytest.raises(DataError, match="files of several formats"):
        texts(f"{folder}?split=train")
    with pytest.raises(DataError, match="settings are for a directory"):
        texts(f"{folder}/train.csv?split=train")


def test_data_sets_by_name(monkeypatch):
    """What the hub would give, through the library's own types; there is no network in tests."""
    datasets = pytest.importorskip("datasets")

    def load(name, config, split):
        if (name, config, split) != ("owner/set", "c", "test"):
            raise datasets.exceptions.DatasetNotFoundError(f"{name} is nowhere\nindeed")
        labels = datasets.ClassLabel(names=["neg", "pos"])
        features = datasets.Features({"text": datasets.Value("string"), "label": labels})
        table = {"text": ["a", "b"], "label": [1, 0]}
        return datasets.Dataset.from_dict(table, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load)
    for source in ("hf:owner/set/c?split=test", "hf:owner/set?config=c&split=test"):
        rows = read_prompt_rows(source, column="text").rows
        assert [(r.text, r.columns["label"]) for r in rows] == [("a", "pos"), ("b", "neg")]
        assert rows[1].where == "hf:owner/set:test 2"
    with pytest.raises(DataError, match=r"hf:owner/set: cannot load the split 'train': owner/set "):
        read_prompt_rows("hf:owner/set")
    with pytest.raises(DataError, match=r"--task.encoding says nothing about 'hf:owner/set'"):
        read_prompts(TaskConfig(prompts="hf:owner/set", encoding="latin-1"))
    with pytest.raises(DataError, match="expected hf:NAME, hf:OWNER/NAME or"):
        read_prompt_rows("hf:a/b/c/d")


def test_packages_that_are_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"hf:some/set needs the package datasets: pip install"):
        read_prompt_rows("hf:some/set")
    path = write(tmp_path, "a.parquet", "PAR1")
    with pytest.raises(DataError, match=r"a.parquet needs the package pyarrow: pip install"):
        read_prompt_rows(str(path))


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    label = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    written = {"info": {"features": {"text": {"_type": "Value"}, "label": label}}}
    table = pa.table({"text": ["a", None, "c"], "label": [1, 0, -1]})
    path = tmp_path / "a.parquet"
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(written)}), path)
    with pytest.raises(DataError, match=r"a.parquet:row 2: expected a text in 'text'.*got None"):
        read_prompt_rows(str(path), column="text")
    config = TaskConfig(prompts=str(path), prompt_column="text", skip_bad_lines=True)
    rows, note = read_prompts(config)
    assert [(r.text, r.columns["label"]) for r in rows] == [("a", "pos"), ("c", -1)]
    assert note.startswith("1 bad line left out of") and "row 2" in note
    with pytest.raises(DataError, match=r"row 1: expected a text in 'label'.*got 5 \(int\)"):
        read_prompt_rows(save(tmp_path, "parquet", [{"label": 5}]), column="label")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_prompt_rows(str(write(tmp_path, "b.parquet", "not parquet")))
    with pytest.raises(DataError, match="--data.encoding says nothing about .*a parquet file"):
        read_found(DocumentConfig(str(path), encoding="latin-1"))
    with pytest.raises(DataError, match="compressed in itself"):
        read_prompt_rows(str(write(tmp_path, "c.parquet.gz", "")))
