"""evaluate.py asks prompts, which a run in an environment has none of."""

import json

import pytest

from rljax.environments.config import EnvironmentConfig
from rljax.errors import UserError
from rljax.tasks import TaskConfig
from rljax.training.config_json import config_to_json


def test_a_run_in_an_environment_needs_prompts_to_be_evaluated(tmp_path, script):
    evaluate = script("evaluate")
    acting = EnvironmentConfig(name="mine.py:Class")
    for environment, refused in ((acting, True), (EnvironmentConfig(), False)):
        config = {"environment": config_to_json(environment)}
        (tmp_path / "config.json").write_text(json.dumps(config))
        options = evaluate.Evaluate(run=str(tmp_path))
        if refused:
            with pytest.raises(UserError, match=r"in the environment mine.py:Class.*task.prompts"):
                evaluate.require_prompts(options)
        else:
            evaluate.require_prompts(options)
        named = evaluate.Evaluate(run=str(tmp_path), task=TaskConfig(prompts="sorting:4"))
        evaluate.require_prompts(named)
