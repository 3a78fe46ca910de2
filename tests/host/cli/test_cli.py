"""The command line: what it prints, how it ends, and what it does not import."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import click
import pytest

from grpo_host.cli import group, main
from grpo_host.cli.evaluate import model_of_run
from grpo_host.cli.group import COMMANDS
from grpo_host.models.precision import fast_dtype
from grpo_sdk.errors import RunError

PLUGIN = """
from typing import Any
from grpo_sdk import *
from grpo_sdk.backend import TRAINABLE

class Echo(Backend):
    capabilities = frozenset({Capability.CHAT})

class Trainable(Backend):
    capabilities = TRAINABLE

class Room(Environment):
    def tasks(self, split):
        return [Task(f"{split}-{n}", split=split) for n in range(32)]
    async def reset(self, task, *, seed):
        return Observation([user("hello")])
    async def step(self, action):
        return StepResult(done=True)

@reward
def kind(trajectory: Any, *, word: str = "please") -> float:
    return 1.0

@hookimpl
def grpo_backends():
    return {"echo": Echo, "trainable": Trainable}

@hookimpl
def grpo_environments():
    return {"room": Room}

@hookimpl
def grpo_rewards():
    return {"kind": kind}

@hookimpl
def grpo_step_finished(step):
    pass
"""

AGENT = """\
name: desk
model: some/model
backend: trainable
environment: room
rewards: [kind, ]
"""

HEAVY = "torch vllm transformers trl peft datasets litellm starlette uvicorn langchain"


@pytest.fixture
def agent_yaml(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRPO_PLUGINS", raising=False)
    index.install("acme", "1.2", code=PLUGIN)
    (tmp_path / "agent.yaml").write_text(AGENT)
    return "agent.yaml"


@pytest.fixture
def called(monkeypatch):
    """Records the calls that the commands make to the host."""
    calls = []

    def pretend(target: str) -> None:
        def call(loaded, **arguments):
            calls.append((target.rpartition(".")[2], loaded, arguments))
            return 7

        monkeypatch.setattr(target, call, raising=False)

    pretend("grpo_host.runs.evaluate.run_eval")
    pretend("grpo_host.runs.rollout.run_rollout")
    return calls


@pytest.fixture
def trained(monkeypatch):
    """Stands in for training, whose module imports torch."""
    calls = []
    module = type(sys)("grpo_host.training.from_yaml")
    module.run_training = lambda loaded, **arguments: calls.append((loaded, arguments)) or 0
    monkeypatch.setitem(sys.modules, "grpo_host.training.from_yaml", module)
    return calls


def test_plugins_are_listed(agent_yaml, index, capsys):
    index.install("bad", "0.1", side="import nowhere_at_all")
    assert main(["plugins"]) == 0
    captured = capsys.readouterr()
    assert "code    acme          1.2      reward: kind " in captured.out
    assert "backend: echo, trainable" in captured.out
    assert "observes: grpo_step_finished" in captured.out
    assert (
        "side    bad           0.1      broken: ModuleNotFoundError: No module named 'nowhere_at_all'"
    ) in captured.out
    assert captured.err == ""


def test_plugins_are_listed_as_json(agent_yaml, index, capsys):
    index.install("bad", "0.1", side="1 / 0")
    assert main(["plugins", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": "code",
            "distribution": "acme",
            "version": "1.2",
            "offers": {
                "reward": ["kind"],
                "environment": ["room"],
                "backend": ["echo", "trainable"],
            },
            "observes": ["grpo_step_finished"],
            "error": None,
        },
        {
            "name": "side",
            "distribution": "bad",
            "version": "0.1",
            "offers": {},
            "observes": [],
            "error": "ZeroDivisionError: division by zero (site-packages/made_up_1_side.py:1)",
        },
    ]


def test_what_is_offered_is_shown_with_its_options_and_its_place(agent_yaml, index, capsys):
    assert main(["plugins", "show", "kind"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith('reward "kind" of acme 1.2 (entry point "code")\n')
    assert "code.py:" in shown
    assert main(["plugins", "show", "acme:kind", "--kind", "reward", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["options"]["properties"]["word"]["default"] == "please"


def test_types_and_defaults_of_options_are_shown(capsys):
    assert main(["plugins", "show", "dataset"]) == 0
    shown = capsys.readouterr().out
    assert '  prompt           string = "prompt"' in shown
    assert "  path             path | null = null" in shown


FILE = """
from grpo_sdk import Environment, Strategy, reward
from langchain_core.tools import tool

@reward
def exact(trajectory, answer: str, *, near: float = 0.5) -> float:
    '''1 if it is right.'''
    return 1.0

def plain(trajectory): return 1.0
def trl(completions, **_): return []
def add(a: int, b: int) -> int:
    '''Add.'''
    return a + b

@tool
def minus(a: int) -> int:
    '''Subtract.'''
    return -a

class Desk(Environment): ...
class Guess:
    def reset(self, **columns): ...
def pirate() -> "Strategy": ...
"""


def test_what_a_file_offers_is_shown_as_what_a_package_offers_is(tmp_path, monkeypatch, capsys):
    (tmp_path / "my.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "show", "./my.py:exact"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f'reward "exact" of {tmp_path}/my.py\n{tmp_path}/my.py:5\n\n1 if it is right.')
    assert "  near  number = 0.5" in shown
    assert main(["plugins", "show", "./my.py:add"]) == 0
    assert f'tool "add" of {tmp_path}/my.py\n{tmp_path}/my.py:12\n\nAdd.' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("plain", "reward"),
        ("trl", "reward"),
        ("add", "tool"),
        ("minus", "tool"),
        ("Desk", "environment"),
        ("Guess", "environment"),
        ("pirate", "strategy"),
    ],
)
def test_the_kind_of_what_a_file_offers_is_told(tmp_path, capsys, name, kind):
    (tmp_path / "my.py").write_text(FILE)
    assert main(["plugins", "show", f"{tmp_path}/my.py:{name}", "--json"]) == 0
    assert [item["kind"] for item in json.loads(capsys.readouterr().out)] == [kind]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./my.py", '"./my.py" is a file: say what in it, as in ./my.py:my_reward'),
        ("./my.py:exakt", 'my.py has no "exakt". Did you mean "exact"?'),
        ("./gone.py:x", "gone.py: no such file"),
        ("./my.py:__name__", "my.py: __name__ is nothing that agent.yaml can name"),
    ],
)
def test_what_a_file_does_not_offer_is_said(tmp_path, monkeypatch, capsys, name, said):
    (tmp_path / "my.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "show", name]) == 2
    assert said in capsys.readouterr().err


def test_what_nobody_offers_is_an_error_with_a_suggestion(capsys):
    assert main(["plugins", "show", "datasett"]) != 0
    assert 'nothing is called "datasett". Did you mean "dataset"?' in capsys.readouterr().err


def test_how_long_a_plugin_takes_to_import_is_shown(agent_yaml, index, capsys):
    index.install("slow", "0.1", side="import time; time.sleep(0.2); 1 / 0")
    assert main(["plugins", "--timings", "--json"]) == 0
    seconds = {item["name"]: item["seconds"] for item in json.loads(capsys.readouterr().out)}
    assert seconds["side"] >= 0.2
    assert main(["plugins", "--timings"]) == 0
    assert "import" in capsys.readouterr().out.splitlines()[0]


def test_the_schema_of_agent_yaml_is_printed(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "agent.yaml"


def test_what_looks_like_markup_is_printed_as_it_is(index, capsys):
    index.install("bad", "0.1", side="raise ValueError('[red]no[/red] [/]')")
    assert main(["plugins"]) == 0
    assert "broken: ValueError: [red]no[/red] [/]" in capsys.readouterr().out


def test_no_plugins_leaves_them_out(agent_yaml, capsys):
    assert main(["--no-plugins", "plugins"]) == 0
    assert capsys.readouterr().out == (
        "No plugins are loaded. Install one, or leave out --no-plugins and --plugins.\n"
    )


def test_plugins_can_be_chosen(agent_yaml, index, capsys, monkeypatch):
    index.install("other", side=PLUGIN)
    assert main(["--plugins", "acme, other/side", "plugins", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    monkeypatch.setenv("GRPO_PLUGINS", "acme")
    assert main(["plugins", "--json"]) == 0
    assert [plugin["distribution"] for plugin in json.loads(capsys.readouterr().out)] == ["acme"]


def test_a_missing_plugin_that_was_chosen_is_an_error(agent_yaml, capsys):
    assert main(["--plugins", "acne", "plugins"]) == 2
    assert capsys.readouterr().err == (
        'error: plugin "acne" is not installed. Did you mean "acme"? Run grpo-host plugins to list what is.\n'
    )


@pytest.mark.torch
def test_other_commands_warn_of_broken_plugins(agent_yaml, index, capsys):
    index.install("bad", "0.1", side="1 / 0")
    assert main(["check", agent_yaml]) == 0
    assert capsys.readouterr().err == (
        'warning: plugin bad 0.1 (entry point "side") is broken and left out: '
        "ZeroDivisionError: division by zero (site-packages/made_up_1_side.py:1)\n"
    )


@pytest.mark.torch
def test_a_good_agent_is_summed_up(agent_yaml, capsys):
    assert main(["check", agent_yaml, "--set", "rewards[0].weight=0.5"]) == 0
    assert capsys.readouterr().out == (
        "agent        desk\n"
        f"model        some/model ({fast_dtype()}, 1024 tokens)\n"
        "backend      trainable\n"
        "environment  room (32 train, 32 held_out tasks)\n"
        "tools        none\n"
        "rewards      0.5 kind\n"
        "ok: ready for train\n"
    )


def test_an_agent_is_checked_for_a_purpose(agent_yaml, capsys):
    assert main(["check", agent_yaml, "--set", "backend=echo", "--for", "chat"]) == 0
    out = capsys.readouterr().out
    assert "\nenvironment  room\n" in out
    assert out.endswith("\nok: ready for chat\n")


@pytest.mark.torch
def test_the_resolved_file_is_printed(agent_yaml, capsys, tmp_path):
    assert main(["check", agent_yaml, "--resolved"]) == 0
    text = capsys.readouterr().out
    assert "word: please" in text
    (tmp_path / "resolved.yaml").write_text(text)
    assert main(["check", "resolved.yaml", "--resolved"]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.torch
def test_problems_are_printed_one_a_line(agent_yaml, capsys):
    assert main(["check", agent_yaml, "--set", "rewards[0]=knd", "--set", "sampling.top_k=5"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert first.startswith('error: --set rewards[0]: rewards[0].name: no reward "knd".')
    assert second.startswith("error: --set sampling.top_k: training needs samples")


def test_a_missing_file_is_one_line(agent_yaml, capsys):
    assert main(["check", "agnt.yaml"]) == 2
    assert capsys.readouterr().err == ("error: agnt.yaml: no such file. Give the path of an agent.yaml\n")


def test_a_misspelt_command_is_an_error_with_a_suggestion(capsys):
    assert main(["chekc"]) == 2
    assert 'Error: no command "chekc". Did you mean "check"?\n' in capsys.readouterr().err


def test_an_unknown_command_is_an_error_with_the_list(capsys):
    assert main(["xyzzy"]) == 2
    there_are = ", ".join(COMMANDS)
    assert f'Error: no command "xyzzy". There are: {there_are}.\n' in capsys.readouterr().err


@pytest.mark.torch
def test_training_gets_the_checked_configuration(agent_yaml, trained):
    assert main(["run", agent_yaml, "--set", "training.steps=5"]) == 0
    [(loaded, arguments)] = trained
    assert loaded.config.training.steps == 5
    assert arguments == {"resume": None, "record": False}


@pytest.mark.torch
@pytest.mark.parametrize(
    ("arguments", "resume"),
    [
        (["agent.yaml", "--resume"], "latest"),
        (["--resume", "agent.yaml"], "latest"),
        (["agent.yaml", "--resume", "20261122-1"], "20261122-1"),
        (["--resume", "--set", "seed=1", "agent.yaml"], "latest"),
    ],
)
def test_a_run_is_resumed(agent_yaml, trained, arguments, resume):
    assert main(["run", *arguments]) == 0
    assert trained[0][1] == {"resume": resume, "record": False}


@pytest.mark.torch
def test_ranks_replay_the_run_that_was_the_latest_when_they_were_started(agent_yaml, tmp_path, monkeypatch):
    recorded = tmp_path / "runs/desk/20261122-101500-ab12"
    recorded.mkdir(parents=True)
    (recorded / "agent.yaml").write_text(AGENT)
    (recorded / "answers.jsonl").write_text('{"tools": {}}\n')
    commands = []
    monkeypatch.setattr(
        "grpo_host.training.ranks.process_group.launch",
        lambda command, size, **_: commands.append(list(command)) or 0,
    )
    assert main(["run", agent_yaml, "--replay", "latest", "--set", "training.max_restarts=1"]) == 0
    [command] = commands
    assert command[-2] == "--replay"
    assert Path(command[-1]).resolve() == recorded


def test_a_run_without_a_file_is_an_error(agent_yaml, capsys):
    assert main(["run"]) == 2
    assert "Error: Missing argument 'AGENT_YAML'; --resume needs it too." in capsys.readouterr().err


def test_a_run_of_a_wrong_agent_does_not_begin(agent_yaml, trained):
    assert main(["run", agent_yaml, "--set", "training.group_size=1"]) == 2
    assert trained == []


def test_an_evaluation_takes_other_parts(agent_yaml, called, tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    options = "--backend trainable --model other/model --episodes 3 --split train --resume --json"
    assert main(["eval", agent_yaml, *options.split(), "--out", "results"]) == 7
    [(name, loaded, arguments)] = called
    assert name == "run_eval"
    assert loaded.config.model.name == "other/model"
    assert loaded.config.evaluation.episodes == 3
    assert loaded.config.evaluation.split == "train"
    assert arguments.pop("out").name == "results"
    assert arguments == {"resume": True, "as_json": True, "record": False}


def finished_run(tmp_path, trained):
    """A run of another model than agent.yaml names by now."""
    run = tmp_path / "runs" / "desk" / "20261122-1"
    (run / trained).mkdir(parents=True)
    (run / "agent.yaml").write_text(AGENT.replace("some/model", "its/own") + "seed: ${GRPO_NOT_SET}\n")
    return run


def test_an_evaluation_takes_the_adapter_of_a_run_and_its_model(agent_yaml, called, tmp_path, capsys):
    run = finished_run(tmp_path, "checkpoints")
    assert main(["eval", agent_yaml, "--run", "latest"]) == 2
    assert "has no adapter yet; finish it with --resume" in capsys.readouterr().err
    (run / "adapter").mkdir()
    (run / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    # This backend loads none, which is how the adapter is seen to have been found.
    assert main(["eval", agent_yaml, "--run", "latest"]) == 2
    assert 'error: --run: the backend "trainable" loads no adapters' in capsys.readouterr().err
    found = model_of_run(Path(agent_yaml), (), "latest")
    assert (found.name, found.adapter) == ("its/own", Path("runs/desk/20261122-1/adapter"))


def test_an_evaluation_takes_the_whole_model_that_a_run_trained(agent_yaml, called, tmp_path):
    finished_run(tmp_path, "model")
    assert main(["eval", agent_yaml, "--run", "20261122-1"]) == 7
    [(_, loaded, _)] = called
    assert (loaded.config.model.name, loaded.config.model.adapter) == ("runs/desk/20261122-1/model", None)


def test_a_wrong_option_of_an_evaluation_is_named_as_it_was_written(agent_yaml, called, capsys):
    assert main(["eval", agent_yaml, "--backend", "ecko", "--adapter", "nowhere"]) == 2
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith('error: --backend: backend.name: no backend "ecko". Did you mean "echo"?')
    assert main(["eval", agent_yaml, "--adapter", "nowhere"]) == 2
    assert f"error: --adapter: {Path.cwd()}/nowhere is no PEFT adapter" in capsys.readouterr().err
    assert called == []


def test_an_adapter_and_a_run_exclude_each_other(agent_yaml, capsys):
    assert main(["eval", agent_yaml, "--adapter", "a", "--run", "latest"]) == 2
    assert ("Error: --adapter and --run both name an adapter. Give one of them.") in capsys.readouterr().err


def test_rollouts_are_played(agent_yaml, called):
    arguments = ["rollout", agent_yaml, "--episodes", "4", "--samples", "2", "--out", "t.jsonl"]
    assert main(arguments) == 7
    [(name, _, given)] = called
    assert name == "run_rollout"
    assert given.pop("out").name == "t.jsonl"
    assert given == {"episodes": 4, "split": "train", "samples": 2, "record": False}


def test_models_are_listed(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "smollm2-135m" in out
    assert "A hub id (owner/name) or a directory with a model can be named too." in out
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "smollm2-135m"


@pytest.mark.parametrize(
    ("arguments", "variable", "level"),
    [
        (("--verbose",), None, logging.DEBUG),
        (("--log", "info"), None, logging.INFO),
        ((), "ERROR", logging.ERROR),
    ],
)
def test_what_is_logged_can_be_chosen(monkeypatch, arguments, variable, level):
    if variable:
        monkeypatch.setenv("GRPO_LOG", variable)
    ours = logging.getLogger("grpo_host")
    monkeypatch.setattr(ours, "level", logging.NOTSET)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    main([*arguments, "models"])
    assert ours.level == level
    for name in ("grpo_host", "grpo_sdk", "grpo_backends"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("grpo-host 0.")


@pytest.mark.parametrize("command", [None, *group.COMMANDS])
def test_help_begins_with_a_sentence_and_examples(capsys, command):
    assert main([command, "--help"] if command else ["--help"]) == 0
    text = capsys.readouterr().out
    sentence, examples, usage = text.index("."), text.index("Examples:\n"), text.index("Usage:")
    assert sentence < examples < usage < text.index("Options:")
    called = f"grpo-host {command}" if command else "grpo-host "
    assert f"\n  {called}" in text[examples:usage]


@pytest.fixture
def failing(monkeypatch):
    """A command ``plugins`` that raises."""

    def fail_with(error: BaseException) -> None:
        def command() -> None:
            raise error

        made = click.command("plugins")(command)
        monkeypatch.setattr(group.LazyGroup, "get_command", lambda *_: made)

    return fail_with


def test_an_expected_error_is_printed_without_a_traceback(failing, capsys):
    failing(RunError("the disk is full"))
    assert main(["plugins"]) == 2
    assert capsys.readouterr().err == "error: the disk is full\n"


def test_a_surprise_is_a_traceback(failing):
    failing(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["plugins"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_has_its_own_status(failing, error):
    failing(error)
    assert main(["plugins"]) == 130


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m grpo_host.cli plugins --json | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[", "")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["plugins"], ["models"]])
def test_light_commands_import_nothing_heavy(arguments):
    code = (
        "import json, sys\n"
        "from grpo_host.cli import main\n"
        f"status = main({arguments!r})\n"
        "print(json.dumps([status, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, imported = json.loads(done.stdout.splitlines()[-1])
    assert status == 0
    assert set(HEAVY.split()) & set(imported) == set()
