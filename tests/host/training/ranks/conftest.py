"""An agent that several ranks train in seconds."""

from __future__ import annotations

import pytest

AGENT = """\
name: tiny
model: {{name: "{model}", context: 128}}
backend: transformers
environment: {{name: arithmetic, options: {{train_tasks: 8, held_out_tasks: 3}}}}
rewards:
  - {{name: length, options: {{low: 1, high: 2}}}}
sampling: {{max_tokens: 6}}
training:
  steps: 2
  tasks_per_step: 2
  group_size: 4
  micro_batch: 2
  world_size: {size}
  learning_rate: 1.0e-2
evaluation: {{episodes: 3}}
output: "{output}"
"""


@pytest.fixture
def agent_yaml(tmp_path, tiny_model_path):
    def write(size):
        path = tmp_path / "agent.yaml"
        path.write_text(AGENT.format(model=tiny_model_path, output=tmp_path / "runs", size=size))
        return path

    return write
