"""Completions of prompts from every source, and conversations, as a user asks for them."""

import io
import json

import pytest

MODEL = ["--model", "random:tiny-llama"]
SHORT = ["--sampling.max-new-tokens", "8"]


@pytest.fixture
def rows(script, capsys):
    """Return a function that runs the script with --json and returns its rows."""

    def run(*argv: object) -> list[dict]:
        script("generate").main([*(str(part) for part in argv), "--json"])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_prompts_and_samples(rows):
    made = rows(*MODEL, *SHORT, "--prompt", "hello", "--prompt", "film", "--num-samples", 2)
    assert [(row["prompt"], row["sample"]) for row in made] == [
        ("hello", 0),
        ("hello", 1),
        ("film", 0),
        ("film", 1),
    ]
    assert len({row["completion"] for row in made}) == 4
    assert all(1 <= row["tokens"] <= 8 and row["log_prob"] < 0 for row in made)
    assert all(row["ended"] or row["tokens"] == 8 for row in made)


@pytest.mark.slow
def test_a_completion_does_not_depend_on_its_batch(rows):
    argv = [*MODEL, *SHORT, "--prompt", "hello", "--prompt", "film", "--num-samples", 2]
    one, three = (rows(*argv, "--batch-size", size) for size in (1, 3))
    assert [row["completion"] for row in one] == [row["completion"] for row in three]
    assert rows(*argv, "--seed", 1) != rows(*argv)


@pytest.mark.slow
def test_slots_write_the_same(rows):
    argv = [*MODEL, *SHORT, "--prompt", "hello", "--prompt", "film", "--num-samples", 3]
    made, queued = rows(*argv), rows(*argv, "--sampling.slots", 2)
    assert [row["completion"] for row in queued] == [row["completion"] for row in made]
    for one, other in zip(made, queued, strict=True):
        assert one["log_prob"] == pytest.approx(other["log_prob"], abs=1e-4)


def test_prompts_from_a_file_and_from_stdin(rows, tmp_path, monkeypatch):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "one"}\n{"text": "two"}\n')
    made = rows(*MODEL, *SHORT, "--prompts", file, "--prompt-column", "text")
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\n"))
    assert rows(*MODEL, *SHORT) == made
    assert [row["prompt"] for row in made] == ["one", "two"]


@pytest.mark.slow
def test_text_holds_the_prompt_and_chat_only_the_reply(script, rows, capsys):
    argv = [*MODEL, *SHORT, "--prompt", "hello"]
    completion = rows(*argv)[0]["completion"]
    script("generate").main(argv)
    assert capsys.readouterr().out == f"hello{completion}\n"
    reply = rows(*argv, "--chat", "--system", "be brief")[0]["completion"]
    assert reply != completion
    script("generate").main([*argv, "--chat", "--system", "be brief"])
    assert capsys.readouterr().out == f"{reply}\n"


@pytest.mark.slow
def test_a_run_gives_its_policy_and_its_sampling(rows, tiny_run):
    argv = ["--run", tiny_run.directory, "--prompt", "hello", "--sampling.temperature", 0]
    last, first = rows(*argv), rows(*argv, "--checkpoint", 1)
    assert last[0]["tokens"] <= 8  # the run's max_new_tokens
    assert last[0]["log_prob"] != first[0]["log_prob"]
    longer = rows(*argv, "--sampling.max-new-tokens", 16)
    assert longer[0]["completion"].startswith(last[0]["completion"].rstrip("\ufffd"))


@pytest.mark.slow
def test_a_conversation_through_a_pipe(script, capsys, monkeypatch):
    lines = ["hi", "/reset", "x" * 300, "hi", "y" * 100, "/exit", "never read"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    script("generate").main([*MODEL, "--interactive", "--sampling.max-new-tokens", "100"])
    out = capsys.readouterr().out
    assert "/exit or Ctrl-D ends it" in out
    assert "(the conversation is forgotten)" in out
    # "user: ", 300 letters and a line end, "assistant: "
    assert (
        "(this message makes 318 tokens, and 156 fit beside a reply of 100; it is left out)" in out
    )
    assert "(the context is full: the oldest exchange is forgotten)" in out


def test_the_end_of_the_pipe_ends_the_conversation(script, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    script("generate").main([*MODEL, *SHORT, "--interactive"])
    assert "error" not in capsys.readouterr().err


def test_widths_are_few(script):
    width = script("generate").padded_width
    assert {width(n, 200) for n in range(1, 201)} == {32, 64, 128, 200}
    assert all(width(n, 200) >= n for n in range(1, 201))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give one of --model SOURCE and --run DIRECTORY"),
        ([*MODEL, "--run", "x"], "x is no run directory"),
        (["--run", "nowhere"], "nowhere is no run directory"),
        (["--model", "random:nothing", "--prompt", "a"], "random:nothing is not known"),
        (["--model", "./nowhere", "--prompt", "a"], "no such directory"),
        ([*MODEL, "--checkpoint", "best"], "--checkpoint is one of a run"),
        ([*MODEL, "--prompt", "a", "--prompts", "b"], "not both"),
        ([*MODEL, "--system", "a"], "--system needs --chat"),
        ([*MODEL, "--interactive", "--prompt", "a"], "--interactive reads from the terminal"),
        ([*MODEL, "--prompts", "none.txt"], "no prompt file 'none.txt'"),
        ([*MODEL, "--prompt", "a" * 300], "prompt 1 has 300 tokens, but the model's context"),
        ([*MODEL, "--prompt", ""], "prompt 1 is empty"),
        (
            [*MODEL, "--prompt", "a", "--sampling.max-new-tokens", "256"],
            "leaves no room for a prompt",
        ),
        ([*MODEL, "--prompt", "a", "--sampling.top-p", "0"], "top_p"),
        ([*MODEL, "--prompt", "a", "--sampling.slots", "16"], "slots is 16, but a batch has only"),
        ([*MODEL, "--interactive", "--sampling.slots", "2"], "leave out --prompt"),
    ],
)
def test_what_is_wrong_is_said(fails, argv, message):
    assert message in fails("generate", *argv)


def test_a_checkpoint_that_is_not_there(fails, tiny_run):
    message = fails("generate", "--run", tiny_run.directory, "--prompt", "a", "--checkpoint", 7)
    assert "no checkpoint of step 7; there are [1, 2]" in message
    assert "loaded in its own dtype" in fails(
        "generate", "--run", tiny_run.directory, "--prompt", "a", "--dtype", "bfloat16"
    )
