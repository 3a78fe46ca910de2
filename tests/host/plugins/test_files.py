"""Single files as plugins."""

from __future__ import annotations

import pytest

from grpo_host.assembly.from_yaml import build_environment, build_rewards, build_strategy
from grpo_host.assembly.tools import build_tools
from grpo_host.checks.check import check
from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.config.resolved import dump_resolved
from grpo_host.plugins import load_plugins
from grpo_sdk.errors import PluginError
from grpo_sdk.strategy import Strategy
from grpo_sdk.testing import make_trajectory

AGENT = """\
name: sums
model: m
backend: scripted
agent: {{tools: [{tool}], strategy: {strategy}}}
environment: {environment}
rewards: [{reward}]
"""

FILE = """
from collections.abc import Callable
import beside
from grpo_sdk import Environment, GroupReward, Observation, Reward, StepResult, Strategy, Task, ToolBundle
from grpo_sdk import reward
from grpo_sdk.messages import user


def short(trajectory, *, limit: int = 5) -> float:
    return float(len(trajectory.final_text) <= limit)


@reward
def decorated(trajectory, *, limit: int = 5) -> float:
    return float(len(trajectory.final_text) <= limit)


class Kind(Reward):
    def score(self, trajectory):
        return beside.ONE


made = Kind()


def trl(completions, **_):
    return [1.0 for _ in completions]


def lookup(order: str) -> str:
    '''Look an order up.'''
    return "sent"


class Desk(Environment):
    def __init__(self, *, size: int = 2) -> None:
        self.size = size

    def tasks(self, split):
        return [Task(f"{split}-{n}", {}, split) for n in range(self.size)]

    async def reset(self, task, *, seed):
        return Observation([user("Hi")])

    async def step(self, action):
        return StepResult(done=True)


class Guess:
    def reset(self, **columns):
        return " Go."

    def guess(self, value: int) -> str:
        '''Guess.'''
        return "right"


def pair(*, last: str = "two") -> ToolBundle:
    '''Two tools.'''
    return ToolBundle(lambda: [lookup, named(last)])


def named(name):
    def tool() -> str:
        '''A tool.'''
        return name

    tool.__name__ = name
    return tool


def made_lookup() -> "Callable[[str], str]":
    return lookup


def made_two(*, last: str = "two") -> list[Callable[..., str]]:
    return [lookup, named(last)]


bundle = ToolBundle(lambda: [lookup])
both = [lookup, named("two")]
brief = Strategy("brief", system_prompt="Be brief.")
number = 3
"""


@pytest.fixture
def registry():
    return load_plugins(["grpo-agent-framework"])


@pytest.fixture
def load(tmp_path, registry):
    (tmp_path / "beside.py").write_text("ONE = 1.0\n")
    (tmp_path / "my.py").write_text(FILE)

    def load(reward="./my.py:short", tool="./my.py:lookup", environment="./my.py:Desk", strategy="null"):
        path = tmp_path / "agent.yaml"
        path.write_text(AGENT.format(reward=reward, tool=tool, environment=environment, strategy=strategy))
        return load_config(path, registry=registry)

    return load


@pytest.mark.parametrize("name", ["short", "decorated", "Kind", "made", "trl"])
def test_rewards_of_every_kind_are_taken_from_a_file(load, registry, name):
    (item,) = build_rewards(resolve(load(f"my.py:{name}"), registry))
    assert item.name == name
    if name != "trl":
        assert item.reward.score(make_trajectory("Hi.")) == 1.0


def test_a_function_in_a_file_has_options_and_may_have_another_name(load, registry):
    loaded = load("{name: ./my.py:short, options: {limit: 1}, as: brief}")
    (item,) = build_rewards(resolve(loaded, registry))
    assert item.name == "brief"
    assert item.reward.score(make_trajectory("Hi.")) == 0.0


def test_tools_environments_and_strategies_are_taken_from_a_file(load, registry):
    loaded = load(strategy="./my.py:brief", environment="{name: ./my.py:Desk, options: {size: 3}}")
    strategy = build_strategy(resolve(loaded, registry))
    assert strategy.system_prompt == "Be brief."
    assert [tool.name for tool in build_tools(resolve(loaded, registry), strategy)] == ["lookup"]
    assert len(build_environment(resolve(loaded, registry))().tasks("train")) == 3


@pytest.mark.parametrize(
    ("tool", "names"),
    [
        ("./my.py:both", ["lookup", "two"]),
        ("./my.py:bundle", ["lookup"]),
        ("{name: ./my.py:pair, options: {last: three}}", ["lookup", "three"]),
        ("./my.py:made_lookup", ["lookup"]),
        ("{name: ./my.py:made_two, options: {last: three}}", ["lookup", "three"]),
    ],
)
def test_a_file_may_name_several_tools_a_bundle_or_what_makes_one(load, registry, tool, names):
    loaded = load(tool=tool)
    assert [made.name for made in build_tools(resolve(loaded, registry), Strategy("any"))] == names


def test_an_environment_class_of_trl_has_the_tasks_of_a_dataset(load, registry, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Guess."}\n')
    loaded = load(environment="{name: ./my.py:Guess, options: {path: rows.jsonl, held_out_share: 0.0}}")
    made = build_environment(resolve(loaded, registry))()
    assert [task.data for task in made.tasks("train")] == [{"prompt": "Guess."}]
    assert [tool.__name__ for tool in made.tools()] == ["guess"]


def test_one_reward_may_come_twice_under_two_names(load, registry):
    twice = "./my.py:short, {name: ./my.py:short, as: shorter, options: {limit: 1}}"
    assert [item.name for item in build_rewards(resolve(load(twice), registry))] == ["short", "shorter"]
    problems = check(resolve(load("./my.py:short, ./my.py:short"), registry)).problems
    assert any('the reward "short" is listed twice. Leave one out, or give it' in str(p) for p in problems)


def test_a_resolved_agent_yaml_works_from_anywhere(load, registry, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    resolved = tmp_path / "elsewhere" / "agent.yaml"
    resolved.write_text(dump_resolved(resolve(load(), registry)))
    monkeypatch.chdir("/")
    again = load_config(resolved, registry=registry)
    assert build_rewards(resolve(again, registry))[0].name == "short"
    assert "as:" not in resolved.read_text()


def test_what_agent_yaml_does_not_name_is_never_loaded(load, registry, tmp_path):
    load()
    with pytest.raises(PluginError, match=r'no plugin ".*my\.py" for the reward'):
        registry.get("reward", f"{tmp_path}/my.py:decorated")


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ("./gone.py:x", "gone.py: no such file. A path in agent.yaml is relative to agent.yaml"),
        ("./my.py:shrot", 'my.py has no "shrot". Did you mean "short"?'),
        (
            "./my.py:else_where",
            'my.py has no "else_where". It has: short, decorated, Kind, made, trl, lookup',
        ),
        ("./my.py", '/my.py" is a file: say what in it is the reward, as in ./my.py:my_reward'),
        ("./my.py:number", "my.py: number is no reward. Name a function of a trajectory"),
        ("./my.py:Desk", "my.py: Desk is no reward"),
        ("./bad.py:x", "bad.py:2: ZeroDivisionError: division by zero"),
        ("./syntax.py:x", "syntax.py:1: SyntaxError"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(load, registry, tmp_path, reward, said):
    (tmp_path / "bad.py").write_text("x = 1\nx / 0\n")
    (tmp_path / "syntax.py").write_text("def x(:\n")
    problems = [str(problem) for problem in check(resolve(load(reward), registry)).problems]
    assert [p for p in problems if said in p and "agent.yaml:6: rewards[0].name" in p], problems


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tool": "./my.py:number"}, "number is no tool. Name a function with type hints"),
        ({"environment": "./my.py:number"}, "number is no environment. Name a class of grpo_sdk.Environment"),
        ({"strategy": "./my.py:number"}, "number is no strategy. Name a grpo_sdk.Strategy"),
    ],
)
def test_what_is_of_another_kind_is_refused(load, registry, settings, said):
    assert any(said in str(problem) for problem in check(resolve(load(**settings), registry)).problems)


def test_what_a_file_prints_does_not_mix_with_what_a_command_prints(load, registry, tmp_path, capsys):
    (tmp_path / "loud.py").write_text("print('hello')\ndef x(trajectory): return 1.0\n")
    build_rewards(resolve(load("./loud.py:x"), registry))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (
            "answr",
            'it asks for "answr", which no task of the environment "Quiz" has in its data: answer, prompt. '
            'Did you mean "answer"?',
        ),
        ("tolerance", "answer, prompt. A parameter that is an option of agent.yaml stands after a *"),
        (
            "trainer_state",
            "A reward function of TRL is given prompts, completions, completion_ids and columns",
        ),
    ],
)
def test_a_value_that_a_reward_reads_and_no_task_has_is_found_before_a_run(
    load, registry, tmp_path, reward, said
):
    (tmp_path / "quiz.py").write_text(
        """
from grpo_sdk import Environment, Observation, StepResult, Task, user

class Quiz(Environment):
    def tasks(self, split):
        return [Task(f"{split}-{n}", {"prompt": "Hi", "answer": n}, split) for n in range(9)]

    async def reset(self, task, *, seed):
        return Observation([user("Hi")])

    async def step(self, action):
        return StepResult(done=True)

def exact(trajectory, answer, other=1): return 1.0
def answr(trajectory, answr): return 1.0
def tolerance(trajectory, tolerance): return 1.0
def trainer_state(completions, answer, trainer_state, log_extra=None, **columns): return 1.0
"""
    )

    def problems(name):
        loaded = load(f"./quiz.py:{name}", environment="./quiz.py:Quiz")
        return [str(p) for p in check(resolve(loaded, registry), purpose="rollout").problems]

    assert problems("exact") == []
    [problem] = problems(reward)
    assert "agent.yaml:6: rewards[0]: it asks for" in problem
    assert said in problem
