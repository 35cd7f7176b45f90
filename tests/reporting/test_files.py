"""Files of numbers that a script writes where the user says."""

import json

import pytest

from rljax.errors import UserError
from rljax.reporting.files import write_json


def test_numbers_go_into_a_folder_that_is_made(tmp_path):
    path = tmp_path / "new" / "numbers.json"
    write_json(path, {"name": "λ", "values": [1, 2.5]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "λ", "values": [1, 2.5]}
    assert "λ" in path.read_text(encoding="utf-8")


def test_a_place_that_is_none_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/numbers\.json cannot be written.*give --json"):
        write_json(tmp_path / "file" / "numbers.json", {})
