"""The page: whole, closed against what models write, and the same for the same runs."""

import json
import re
from html.parser import HTMLParser

import pytest

from rljax.reporting.contents import contents_of_runs
from rljax.reporting.page import embed, markdown, page, visible
from rljax.reporting.runs import read_run
from tests.reporting.fake_runs import write_run

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(1)">\x00\u2028\u202e"\'&'


class Reader(HTMLParser):
    """Collects elements, their attributes and their text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in ("meta", "input", "path", "circle", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def parsed(text) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


TABLE = {
    "text": ["</script>", " <b>"],
    "log_prob": [-1.0, -2.0],
    "log_ratio": [0.5, None],
    "kl": [0.1, 0.2],
}


@pytest.fixture
def hostile(tmp_path):
    rows = [
        {"prompt": HOSTILE, "completion": HOSTILE, "score": 1.0, "kl": 0.5, "by_token": TABLE},
        {"prompt": "plain", "completion": "two\nlines", "score": float("nan")},
    ]
    config = {"task": {"reward": HOSTILE}}
    for seed, name in enumerate(("a&b", "c")):
        write_run(
            tmp_path / name, config={**config, "steps": seed}, completions=[(0, rows), (4, rows)]
        )
    return contents_of_runs([read_run(tmp_path / name) for name in ("a&b", "c")], HOSTILE)


def test_what_models_and_data_say_is_inert(hostile):
    text = page(hostile)
    reader = parsed(text)
    names = [name for name, _ in reader.elements]
    assert names.count("script") == 2 and "img" not in names and "b" not in names
    assert not [a for _, a in reader.elements for key in a if key.startswith("on")]
    assert "alert(1)" in reader.text and "\x00" not in text and "␀" in reader.text
    assert "\u202e" not in text and "[U+202E]" in reader.text  # which would turn what follows
    (policy,) = (a["content"] for _, a in reader.elements if "http-equiv" in a)
    assert "default-src 'none'" in policy and re.search(r"script-src 'sha256-[^']+';", policy)
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_embedded_tokens_are_the_stored_ones(hostile):
    text = page(hostile)
    data = text.split('id="tokens-data">')[1].split("</script>")[0]
    runs = json.loads(data)
    assert [run["label"] for run in runs] == ["a&b, seed 0", "c, seed 0"]
    assert [row["step"] for row in runs[0]["rows"]] == [0, 4]
    assert runs[0]["rows"][0]["tokens"] == TABLE
    assert runs[0]["rows"][0]["prompt"] == visible(HOSTILE)


def test_embedding_ends_no_element_and_knows_no_nan():
    made = embed({"a": ["</script>", "<!--", float("nan"), "\u2028", "\ud800"]})
    assert not set(made) & set("<>&") and made.isascii()
    assert json.loads(made) == {"a": ["</script>", "<!--", None, "\u2028", "?"]}


def test_the_page_needs_nothing_from_outside(hostile):
    reader = parsed(page(hostile))
    for _, attributes in reader.elements:
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "#").startswith("#")


def test_links_labels_and_headings_are_whole(hostile):
    reader = parsed(page(hostile))
    assert len(reader.ids) == len(set(reader.ids))
    links = [a["href"] for name, a in reader.elements if name == "a"]
    assert links and all(link.removeprefix("#") in reader.ids for link in links)
    assert [name for name, _ in reader.elements].count("h1") == 1
    assert ("html", {"lang": "en"}) in reader.elements
    for name, attributes in reader.elements:
        if name == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
        if attributes.get("role") == "region":
            assert attributes["aria-label"] and attributes["tabindex"] == "0"


def test_the_same_runs_give_the_same_bytes(hostile):
    assert page(hostile) == page(hostile) and markdown(hostile) == markdown(hostile)


def test_one_run_of_one_step_has_a_page(tmp_path):
    write_run(tmp_path / "a", rows={1: {"loss": float("nan"), "train/loss": 2.0}})
    contents = contents_of_runs([read_run(tmp_path / "a")])
    text = parsed(page(contents)).text
    assert "One configuration" in text and "train/loss" in text
    assert markdown(contents).startswith("# a\n")


def test_colours_of_text_are_legible():
    """WCAG AA, 4.5 to 1 for text and 3 to 1 for lines, in both schemes."""
    from importlib import resources

    css = resources.files("rljax.reporting").joinpath("page", "report.css").read_text()
    light, dark = re.findall(r":root \{([^}]*)\}", css)

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    def contrast(a, b):
        high, low = sorted((luminance(a), luminance(b)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    def mixed(colour, ground, share):
        parts = [
            round(share * int(colour[i : i + 2], 16) + (1 - share) * int(ground[i : i + 2], 16))
            for i in (1, 3, 5)
        ]
        return "#" + "".join(f"{part:02x}" for part in parts)

    for scheme in (light, dark):
        colours = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", scheme))
        for ground in ("bg", "panel"):
            for text in ("fg", "soft", "accent"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
            for tint in ("pos", "neg"):  # of a token, at its strongest
                assert contrast(colours["fg"], mixed(colours[tint], colours[ground], 0.55)) >= 4.5
        for line in (f"c{i}" for i in range(8)):
            assert contrast(colours[line], colours["bg"]) >= 3, line
