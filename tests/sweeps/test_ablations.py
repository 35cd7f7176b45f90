"""The ablations that are shipped: every run of every size, and its tiny form, can be started."""

import pytest

from rljax.sweeps.spec import load_sweep
from rljax.training.flags import repository_root

FILES = sorted((repository_root() / "configs" / "ablations").glob("*.py"))


@pytest.mark.parametrize("size", ["cpu", "full"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_run_can_be_started(file, size):
    sweep = load_sweep(str(file), size)
    assert sweep.name == file.stem
    for form in (sweep, sweep.tiny()):
        assert len(form.cells()) == len(form.arms) * len(form.seeds)
        form.stage_configs()
