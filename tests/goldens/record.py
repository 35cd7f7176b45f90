"""Record the goldens from transformers' torch models: `python -m tests.goldens.record`.

Needs the `parity` extra. Each CASE.npz holds config.json and the tensor table as transformers
writes them, tokens and mask of three rows, their logits, and `generate`'s greedy tokens.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.goldens.cases import CASES, GENERATED, random_weight, rows

HERE = Path(__file__).parent


def torch_model(case: str) -> Any:
    """Build transformers' model of a case, in float32, with the case's weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    family, fields = CASES[case]
    config = AutoConfig.for_model(family, **json.loads(json.dumps(fields)))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if family == "gpt_neox":  # the name in files differs from the name in the class
                name = name.replace("lm_head", "embed_out")
            weight = random_weight(name, tuple(parameter.shape), family.startswith("gemma"))
            parameter.copy_(torch.from_numpy(weight))
    return model


def torch_logits(model: Any, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Run a torch model with the positions that follow from the mask."""
    import torch

    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with torch.no_grad():
        output = model(
            torch.from_numpy(tokens).long(),
            attention_mask=torch.from_numpy(mask).long(),
            position_ids=torch.from_numpy(positions).long(),
        )
    return output.logits.float().numpy()


def torch_greedy(model: Any, tokens: np.ndarray) -> np.ndarray:
    """Generate GENERATED greedy tokens after each row of tokens [B, P]; no EOS stops them."""
    import torch

    output = model.generate(
        torch.from_numpy(tokens).long(),
        attention_mask=torch.ones(tokens.shape, dtype=torch.long),
        max_new_tokens=GENERATED,
        min_new_tokens=GENERATED,
        do_sample=False,
    )
    return output[:, tokens.shape[1] :].numpy().astype(np.int32)


def derive(case: str) -> dict[str, np.ndarray]:
    """Compute all that is recorded of a case."""
    from safetensors import safe_open

    model = torch_model(case)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        config = (Path(directory) / "config.json").read_text()
        with safe_open(Path(directory) / "model.safetensors", "numpy") as file:
            table = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    tokens, mask = rows()
    return {
        "config": np.array(config),
        "tensors": np.array(json.dumps(table)),
        "tokens": tokens,
        "mask": mask,
        "logits": torch_logits(model, tokens, mask),
        "greedy": torch_greedy(model, tokens[:1, :5]),
    }


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        np.savez_compressed(HERE / f"{name}.npz", **derive(name))
        print("recorded", name)
