"""What a check sees of a model's tokenizer and chat template."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from grpo_host.cli import main

pytestmark = pytest.mark.model

NO_END = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture
def model_with(smollm_tokenizer, agent_yaml):
    """Gives the shop's model the embedded tokenizer with a chat template."""

    def give(template=None):
        tokenizer = copy.copy(smollm_tokenizer)
        tokenizer.chat_template = template or tokenizer.chat_template
        tokenizer.save_pretrained(Path("model"))

    return give


def test_a_template_that_shows_where_turns_end_needs_no_word(model_with, report):
    model_with()
    assert (report().problems, report().warnings) == ([], [])


def test_what_could_not_be_proven_is_a_warning(model_with, report):
    model_with(NO_END)
    found = report()
    assert found.problems == []
    [warning] = found.warnings
    assert warning.startswith("model ./model: nothing shows where a turn ends")


def test_an_end_that_is_no_token_is_a_problem_of_its_setting(model_with, problems):
    model_with()
    [problem] = problems("model.stop=[two words]")
    assert 'model.stop: model.stop: [0]: "two words" is not one token of this model' in problem


def test_a_tokenizer_that_cannot_be_read_is_a_problem_of_the_model(model_with, problems):
    model_with()
    Path("model/tokenizer.json").write_text("{")
    [problem] = problems()
    assert "model.name: its tokenizer cannot be loaded" in problem


@pytest.mark.parametrize(("key", "value"), [("stop", "[x]"), ("tool_format", "hermes")])
def test_how_to_render_is_refused_where_another_server_renders(problems, agent_yaml, key, value):
    text = Path(agent_yaml).read_text()
    Path(agent_yaml).write_text(text.replace("backend: engine", "backend: remote"))
    assert problems(f"model.{key}={value}", purpose="eval") == [
        f'--set model.{key}: the backend "remote" speaks messages, which are rendered where the model '
        f"runs. Leave {key} out"
    ]


def test_a_format_that_the_template_cannot_have_is_a_problem_of_its_setting(model_with, problems):
    model_with()
    [problem] = problems("model.tool_format=hermes")
    assert "model.tool_format: model.tool_format: hermes: the model's chat template takes no tools" in problem


def test_warnings_are_printed_beside_the_summary(agent_yaml, registry, report, monkeypatch, capsys):
    found = report()
    found.warnings.append("model ./model: nothing shows where a turn ends")
    monkeypatch.setattr("grpo_host.checks.check.check", lambda *_, **__: found)
    monkeypatch.setattr("grpo_host.plugins.load_plugins", lambda *_, **__: registry)
    assert main(["check", agent_yaml]) == 0
    captured = capsys.readouterr()
    assert "warning: model ./model: nothing shows where a turn ends\n" in captured.err
    assert captured.out.endswith("ok: ready for train\n")
