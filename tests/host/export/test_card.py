"""The model card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.export.card import Opening, model_card, opening
from grpo_host.models.resolve import ResolvedModel
from grpo_host.runs.directory import RunDirectory
from grpo_sdk import ModelSpec, Observation, system
from grpo_sdk.errors import RunError

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
AGENT = """\
# Made with python 3.11.9, trl 1.16.0
name: desk
seed: 7
model: {name: smollm2-135m, context: 256}
agent: {system_prompt: Use the tools., tools: [calculator]}
environment: arithmetic
rewards: [{name: task_success, weight: 0.75}, {name: length, weight: 0.25}]
training: {steps: 3, learning_rate: 1.0e-4, lora: {r: 24}}
"""
SHOWN = Opening("Use the tools.", ["calculator"], "<|im_start|>system\nUse ```the``` tools.", (2,))


@pytest.fixture
def run(tmp_path):
    (tmp_path / "agent.yaml").write_text(AGENT)
    reward = {"mean": 0.25, "low": 0.2, "high": 0.3}
    before = {"split": "held_out", "episodes": 32, "reward": reward, "success": None}
    after = {**before, "reward": {**reward, "mean": 0.5}, "success": reward}
    report = {"before": before, "after": after, "steps": 3}
    (tmp_path / "report.json").write_text(json.dumps(report))
    return RunDirectory(tmp_path)


@pytest.fixture
def card(run):
    pytest.importorskip("huggingface_hub")

    def card(*, format="merged", hub_id=HUB_ID):
        base = ResolvedModel("smollm2-135m", Path("/cache/smollm2"), "embedded", hub_id, "apache-2.0")
        return model_card(load_config(run.agent_yaml).config, base, SHOWN, format=format, run=run)

    return card


def metadata(text):
    from ruamel.yaml import YAML

    _, head, _ = text.split("---\n", 2)
    return YAML(typ="safe").load(head)


def test_the_card_begins_with_the_metadata_that_the_hub_reads(card):
    assert metadata(card()) == {
        "base_model": HUB_ID,
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["grpo", "trl", "grpo-agent-framework"],
    }
    assert metadata(card(format="adapter"))["library_name"] == "peft"


def test_a_base_model_that_is_a_directory_is_no_metadata(card):
    assert "base_model" not in metadata(card(hub_id=None))


def test_the_card_tells_how_the_model_was_made(card):
    text = card()
    for line in (
        "| rewards | 0.75 * task_success, 0.25 * length |",
        "| GRPO | 3 steps of 4 tasks with 8 episodes each, sampled at temperature 1 |",
        "| learning rate | 0.0001, constant |",
        "| trained | LoRA, rank 24, alpha 32 |",
        "| seed | 7 |",
        "| versions | python 3.11.9, trl 1.16.0 |",
        "| before training | 0.250 [0.200, 0.300] | not said | 32 held_out |",
        "| after GRPO | 0.500 [0.200, 0.300] | 25% [20%, 30%] | 32 held_out |",
    ):
        assert line in text
    assert AGENT in text


def test_the_card_tells_what_the_model_is_told(card):
    text = card()
    assert "```text\nUse the tools.\n```" in text
    assert "Its tools: `calculator`." in text
    assert "````text\n<|im_start|>system\nUse ```the``` tools.\n````" in text, "a fence in it ends nothing"


def test_the_card_serves_at_the_temperature_that_was_measured(card):
    assert (
        """vllm serve DIR --served-model-name desk --override-generation-config '{"temperature": 0}'"""
        in (card())
    )


def test_the_card_of_an_adapter_loads_it_on_its_base(card):
    text = card(format="adapter")
    assert f'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{HUB_ID}"), "DIR")' in text
    assert f"vllm serve {HUB_ID} --enable-lora --max-lora-rank 32 --lora-modules desk=DIR" in text


@pytest.fixture
def desk(run):
    return load_config(run.agent_yaml)


def registry_of(environment):
    from grpo_host.plugins import load_plugins

    registry = load_plugins()
    from grpo_sdk import hookimpl

    class Plugin:
        @hookimpl
        def grpo_environments(self):
            return {"made_up": environment}

    registry.register(Plugin(), "made-up")
    return registry


def made_up(loaded, environment, **agent):
    config = loaded.config
    changes = {
        "environment": config.environment.model_copy(update={"name": "made_up"}),
        "agent": config.agent.model_copy(update=agent),
    }
    return resolve(replace(loaded, config=config.model_copy(update=changes)), registry_of(environment))


def test_the_opening_is_what_an_episode_shows_the_model(desk, fakes):
    class Shop(fakes.Talk):
        async def reset(self, task, *, seed):
            return Observation(
                [system("The shop is open."), *(await super().reset(task, seed=seed)).messages]
            )

        def tools(self):
            def look_up(order: str) -> str:
                """Look up an order."""
                return order

            return [look_up]

    shown = opening(made_up(desk, Shop), fakes.PieceTokenizer(), ModelSpec("tiny"))
    assert shown.system_prompt == "Use the tools.\nThe shop is open."
    assert shown.tools == ["calculator", "look_up"]
    assert shown.text.startswith("<|im_start|>system\nUse the tools.\nThe shop is open.\nTools:\ncalculator(")
    assert "look_up(order: string): Look up an order." in shown.text
    assert shown.text.endswith("<|im_start|>assistant\n")
    assert "Hello" not in shown.text, "a task's own words are not told"
    assert shown.stop_ids == (1,)


def test_an_environment_that_cannot_begin_is_named(desk, fakes):
    class Broken(fakes.Talk):
        async def reset(self, task, *, seed):
            raise ConnectionError("no database")

    with pytest.raises(RunError, match=r'the environment "made_up" cannot begin .* ConnectionError: no data'):
        opening(made_up(desk, Broken), fakes.PieceTokenizer(), ModelSpec("tiny"))


def test_an_agent_without_instructions_has_no_system_prompt(desk, fakes):
    bare = made_up(desk, fakes.Talk, system_prompt="", tools=[])
    shown = opening(bare, fakes.PieceTokenizer(), ModelSpec("tiny"))
    assert (shown.system_prompt, shown.tools) == ("", [])
