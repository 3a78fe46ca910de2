from __future__ import annotations

import warnings
from pathlib import Path

import pytest

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these imports themselves import what is deprecated
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype="float32")
    policy = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
    policy.save_pretrained(tmp_path / "adapter")
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
