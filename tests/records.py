"""Data files that every training script can run on."""

import json
from pathlib import Path


def write_records(folder: Path) -> None:
    """Write prompts.jsonl, texts.jsonl (completions and labels too) and pairs.jsonl."""
    rows: dict[str, list[dict[str, str]]] = {
        "prompts": [{"prompt": f"{i:02d} is a prompt"} for i in range(60)],
        "texts": [
            {"prompt": f"say {i}:", "completion": f" {i}", "label": "positive"} for i in range(120)
        ],
        "pairs": [
            {"prompt": f"say {i}:", "chosen": f" {i}{i}!", "rejected": f" {i} ?"} for i in range(60)
        ],
    }
    for name, content in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(text)
