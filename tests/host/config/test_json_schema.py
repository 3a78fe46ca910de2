"""The schema that editors are given."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from grpo_host.config.json_schema import agent_schema
from grpo_host.plugins import load_plugins

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*/agent.yaml"))


@pytest.fixture(scope="module")
def validator():
    schema = agent_schema(load_plugins(["grpo-agent-framework"]))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def read(text):
    return YAML(typ="safe", pure=True).load(text)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_the_examples_are_valid(validator, path):
    assert [error.message for error in validator.iter_errors(read(path.read_text()))] == []


GOOD = "{name: a, model: m, environment: {name: dataset, options: {path: x.jsonl}}, rewards: [format]}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: a,", ""),
        ("model: m", "modle: m"),
        ("path: x.jsonl", "path: 3"),
        ("path: x.jsonl", "paht: x.jsonl"),
        ("rewards: [format]", "rewards: []"),
        ("rewards: [format]", "rewards: [{name: length, options: {low: many}}]"),
    ],
)
def test_what_is_wrong_is_found_options_of_plugins_included(validator, old, new):
    assert validator.is_valid(read(GOOD))
    assert not validator.is_valid(read(GOOD.replace(old, new)))


def test_names_of_plugins_that_are_not_installed_here_are_left_to_the_check(validator):
    assert validator.is_valid(read(GOOD.replace("format", "./my.py:exact")))


PLUGIN = """
from grpo_sdk import hookimpl, reward

@reward
def length(trajectory, *, words: int = 3) -> float: return 1.0

@reward
def brief(trajectory, *, words: int = 3) -> float: return 1.0

@hookimpl
def grpo_rewards(): return {"length": length, "brief": brief}
"""


def test_options_are_known_by_every_name_that_a_plugin_has(index):
    index.describe("grpo-agent-framework", rewards="grpo_rewards.plugin")
    index.install("Acme_Rewards", mine=PLUGIN)
    validator = Draft202012Validator(agent_schema(load_plugins()))

    def is_valid(name, options):
        return validator.is_valid(read(GOOD.replace("format", f"{{name: '{name}', options: {options}}}")))

    whole = ["Acme_Rewards:brief", "acme-rewards:brief", "mine:brief", "Acme_Rewards/mine:brief"]
    for name in ["brief", *whole, "acme-rewards:length"]:
        assert is_valid(name, "{words: 4}"), name
        assert not is_valid(name, "{words: many}"), name
    for name in ["length", "grpo-agent-framework:length"]:
        assert is_valid(name, "{low: 4}"), name
        assert not is_valid(name, "{low: many}"), name


def test_an_editor_suggests_the_whole_name_of_what_has_the_name_of_a_built_in_one(index):
    index.describe("grpo-agent-framework", rewards="grpo_rewards.plugin")
    index.install("acme-rewards", mine=PLUGIN)
    use = agent_schema(load_plugins())["properties"]["rewards"]["items"]
    assert {"length", "brief", "acme-rewards:length"} <= set(use["anyOf"][0]["enum"])
    assert "acme-rewards:brief" not in use["anyOf"][0]["enum"]
