from __future__ import annotations

from pathlib import Path

import pytest
from tests.host.adapted import adapted

from grpo_host.langchain import ChatGrpo, GrpoAgent

pytestmark = pytest.mark.model

AGENT = """\
name: desk
model: {{name: "{model}", dtype: float32, context: 256}}
backend: transformers
environment: arithmetic
rewards: [task_success]
sampling: {{max_tokens: 12}}
evaluation: {{temperature: 0.0}}
"""


@pytest.fixture
def run(tiny_model_path: Path, tmp_path: Path) -> Path:
    """The directory of a run that has trained an adapter on a tiny model."""
    adapted(tiny_model_path).save_pretrained(tmp_path / "adapter")
    (tmp_path / "agent.yaml").write_text(AGENT.format(model=tiny_model_path))
    return tmp_path


def test_what_a_run_has_trained_answers_greedily_as_it_was_measured(run: Path) -> None:
    trained, base = ChatGrpo.from_run(run), ChatGrpo.from_yaml(run / "agent.yaml")

    said = trained.invoke("Hello")

    assert said.text == trained.invoke("Hello").text
    assert said.text != base.invoke("Hello").text
    assert said.usage_metadata is not None
    assert said.usage_metadata["output_tokens"] <= 12
    assert GrpoAgent.from_run(run).invoke("Hello").text == said.text
