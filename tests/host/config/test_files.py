"""Where the files are that agent.yaml names."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpo_host.checks.check import check
from grpo_host.config.load import load_config
from grpo_host.config.overrides import Override
from grpo_host.config.resolve import resolve
from grpo_host.plugins import load_plugins
from grpo_host.runs.versions import describe_run
from grpo_sdk.errors import ConfigError

AGENT = """\
name: desk
model: {name: "%s", adapter: "%s"}
backend: transformers
environment: {name: order_desk}
agent:
  tools: [{name: knowledge_base, options: {path: "%s"}}]
rewards:
  - {name: neural, options: {path: "%s"}}
  - {name: ruler, options: {judge: {name: transformers, model: {name: "%s", adapter: "%s"}}}}
training: {warm_start: {dialogues: "%s"}, accelerate: "%s"}
output: "%s"
"""
NAMED = ("model", "adapter", "docs", "reward.safetensors", "model", "adapter", "dialogues.jsonl", "fsdp.yaml")
"""The files that ``AGENT`` names, in their order, and what all else is relative to."""


@pytest.fixture(scope="module")
def registry():
    return load_plugins()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory; the working directory is another."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("home/project/model", "home/project/docs", "work"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def written(home, prefix="", output="runs"):
    path = home / "project" / "agent.yaml"
    path.write_text(AGENT % (*(prefix + name for name in NAMED), output))
    return path


def files(config):
    judge = config.rewards[1].options["judge"]["model"]
    return (
        config.model.name,
        config.model.adapter,
        config.agent.tools[0].options["path"],
        config.rewards[0].options["path"],
        judge["name"],
        judge["adapter"],
        config.training.warm_start.dialogues,
        config.training.accelerate,
    )


@pytest.mark.parametrize("prefix", ["", "./", "../project/", "~/project/"])
def test_files_are_beside_agent_yaml_wherever_it_is_read_from(home, registry, prefix):
    config = load_config(written(home, prefix), registry=registry).config
    assert [Path(name).resolve() for name in files(config)] == [home / "project" / name for name in NAMED]
    assert all(Path(name).is_absolute() for name in files(config))


def test_paths_of_the_command_line_are_relative_to_where_it_was_typed(home, registry, tmp_path):
    changes = [
        "model.name=./model",
        Override(("model", "adapter"), "adapter", "--adapter"),
        "agent.tools[0].options.path=docs",
        "rewards[0].options={path: reward.safetensors}",
        "rewards[1].options.judge.model={name: ./model, adapter: adapter}",
        "training.warm_start.dialogues=dialogues.jsonl",
        "training.accelerate=fsdp.yaml",
    ]
    config = load_config(written(home), changes, registry).config
    assert files(config) == tuple(str(tmp_path / "work" / name) for name in NAMED)


def test_names_of_models_that_are_no_directories_stay_names(home, registry):
    for name in ("smollm2-135m", "org/model"):
        assert load_config(written(home), [f"model.name={name}"], registry).config.model.name == name
    (home / "project" / "smollm2-135m").mkdir()
    path = home / "project" / "agent.yaml"
    path.write_text(path.read_text().replace('model: {name: "model"', 'model: {name: "smollm2-135m"'))
    assert load_config(path, registry=registry).config.model.name == "smollm2-135m", "an alias comes first"


def test_a_model_that_a_server_loads_is_named_as_the_server_names_it(home, registry):
    path = written(home, "./")
    changes = ["backend=openai", "model.name=./models/served"]
    assert load_config(path, changes, registry).config.model.name == "./models/served"


def test_output_is_relative_to_the_working_directory(home, registry):
    assert load_config(written(home)).config.output == "runs"
    assert load_config(written(home, output="~/runs")).config.output == str(home / "runs")


def test_a_runs_own_agent_yaml_means_the_same_from_anywhere(home, registry, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCS", "docs")
    path = written(home)
    path.write_text(path.read_text().replace('path: "docs"', 'path: "${DOCS}"'))
    loaded = load_config(path, registry=registry)
    run = tmp_path / "moved" / "agent.yaml"
    run.parent.mkdir()
    run.write_text(describe_run(resolve(loaded, registry)))
    monkeypatch.delenv("DOCS")
    monkeypatch.chdir("/")
    again = load_config(run, registry=registry).config
    assert files(again) == files(loaded.config)
    assert again.output == str(tmp_path / "work" / "runs")


def test_a_tilde_without_a_home_is_an_error_that_names_it(home, registry, monkeypatch):
    def no_home(self):
        if str(self).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return self

    path = written(home, "~/project/")
    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(
        ConfigError, match=r"agent.yaml:2: model.adapter: ~/project/adapter: nobody knows .*HOME"
    ):
        load_config(path, registry=registry)


def test_a_mistake_where_a_file_is_named_is_told_as_any_other(home, registry):
    for change in ("model=5", "model.adapter=[]", "agent.tools=x", "agent=y", "rewards=z", "training=1"):
        with pytest.raises(ConfigError, match=rf"--set {change.partition('=')[0]}"):
            load_config(written(home), [change], registry)


def test_a_run_is_checked_with_its_documents_beside_it(home, registry):
    (home / "project" / "docs" / "a.md").write_text("# Returns\n\nWithin 30 days.\n")
    path = home / "project" / "agent.yaml"
    path.write_text(
        "name: desk\nmodel: x/y\nbackend: openai\nenvironment: order_desk\nrewards: [task_success]\n"
        "agent: {tools: [{name: knowledge_base, options: {path: docs}}]}\n"
    )
    report = check(resolve(load_config(path, registry=registry), registry), purpose="eval")
    assert [problem for problem in report.problems if "knowledge" in str(problem)] == []


@pytest.mark.parametrize("said", ["shop.app:graph", "{name: 'shop.app:graph'}"])
def test_an_apps_modules_are_beside_agent_yaml_unless_it_says_where(home, registry, said):
    path = home / "project" / "agent.yaml"
    text = "name: desk\nmodel: m\nenvironment: order_desk\nrewards: [task_success]\nagent: {runnable: %s}\n"
    path.write_text(text % said)
    loaded = load_config(path, registry=registry)
    assert loaded.config.agent.runnable.folder == str(home / "project")
    elsewhere = home / "resolved.yaml"
    elsewhere.write_text(describe_run(resolve(loaded, registry)))
    assert load_config(elsewhere, registry=registry).config.agent == loaded.config.agent
    there = load_config(path, ["agent.runnable.folder=apps"], registry=registry)
    assert there.config.agent.runnable.folder == str(Path.cwd() / "apps")


def test_a_judge_may_be_a_backend_in_a_file_beside_agent_yaml(home, registry):
    written(home)
    (home / "project" / "judges.py").write_text(
        "from grpo_sdk.testing import ScriptedBackend\n\nclass Stern(ScriptedBackend):\n    pass\n"
    )
    rewards = "rewards=[{name: ruler, options: {judge: {name: '../home/project/judges.py:Stern', model: x}}}]"
    config = load_config(home / "project" / "agent.yaml", [rewards], registry=registry).config
    found = config.rewards[0].options["judge"]["name"]
    assert Path(found.rpartition(":")[0]).resolve() == home / "project" / "judges.py"
    assert registry.get("backend", found).factory.__name__ == "Stern"
