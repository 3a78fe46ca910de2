"""The parts of an agent, made from its configuration."""

from __future__ import annotations

import pytest

from grpo_host.assembly.from_yaml import build, build_environment, build_reward
from grpo_host.assembly.runtime import Assembly
from grpo_host.backends.lifetime import close_backends
from grpo_host.backends.wrapper import innermost
from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.models.sentence import embedder_available, sentence_embedder
from grpo_host.plugins import Registry
from grpo_host.plugins.options import resolve_use
from grpo_host.rollouts.scoring import RewardSet
from grpo_sdk import (
    Backend,
    Capability,
    ConfigError,
    Embedder,
    Environment,
    MissingExtraError,
    Observation,
    Reward,
    Sampling,
    StepResult,
    Strategy,
    Task,
    hookimpl,
    reward,
    user,
)
from grpo_sdk.testing import ScriptedBackend, make_trajectory

AGENT = """\
name: desk
model: {name: some/model, context: 99, adapter: lora}
backend: {name: echo, options: {url: here}}
agent:
  strategy: clerk
  system_prompt: Be kind.
  tools: [dice, {name: coin}]
environment: {name: room, options: {seats: [1, 2]}}
rewards:
  - {name: kind, weight: 0.4, seconds: 5, options: {word: sorry}}
"""


class Echo(Backend):
    capabilities = frozenset({Capability.CHAT})

    def __init__(self, model, *, url: str = "there") -> None:
        super().__init__(model)
        self.url = url


class Room(Environment):
    def __init__(self, *, seats: list[int] | None = None) -> None:
        self.seats = seats

    def tasks(self, split):
        return []

    async def reset(self, task, *, seed):
        return Observation([])

    async def step(self, action):
        return StepResult()


class Visited(Room):
    def __init__(self, *, guest: Backend) -> None:
        self.guest = guest

    async def reset(self, task, *, seed):
        reply = await self.guest.chat([user("Come in.")], Sampling())
        return Observation([user(reply.message["content"])])


@reward
def kind(trajectory, *, word: str = "please") -> float:
    return len(word)


def tool(name: str):
    def function() -> str:
        """A tool."""
        return name

    function.__name__ = name
    return lambda: function


class Judged(Reward):
    def __init__(self, judge: Backend) -> None:
        self.judge = judge

    async def score(self, trajectory):
        reply = await self.judge.chat([user("How was it?")], Sampling())
        return float(reply.message["content"])


class Likeness(Reward):
    def __init__(self, meaning: Embedder, *, spelling: Embedder | None = None) -> None:
        self.given = (meaning, spelling)

    def score(self, trajectory):
        return 0.0


class Judge(ScriptedBackend):
    closed = 0

    async def close(self) -> None:
        self.closed += 1


class Plugin:
    @hookimpl
    def grpo_backends(self):
        return {"echo": Echo, "judge": Judge}

    @hookimpl
    def grpo_environments(self):
        return {"room": Room, "visited": Visited}

    @hookimpl
    def grpo_rewards(self):
        return {"kind": kind, "judged": Judged, "likeness": Likeness}

    @hookimpl
    def grpo_tools(self):
        return {"dice": tool("dice"), "coin": tool("coin")}

    @hookimpl
    def grpo_strategies(self):
        return {"clerk": lambda: Strategy("clerk", "Be exact.", "Be brief.", tools=("dice",))}


@pytest.fixture
def registry():
    made = Registry()
    made.register(Plugin(), "mine")
    return made


@pytest.fixture
def wired(tmp_path, registry):
    (tmp_path / "agent.yaml").write_text(AGENT)
    return build(resolve(load_config(tmp_path / "agent.yaml"), registry))


def test_rewards_have_weight_limit_and_options(wired):
    [item] = wired.rewards
    assert (item.name, item.weight, item.seconds) == ("kind", 0.4, 5.0)
    assert item.reward.score(None) == len("sorry")


def test_tools_are_those_that_the_strategy_uses(wired):
    assert [tool.name for tool in wired.tools] == ["dice"]


def test_the_system_prompt_comes_after_the_strategys_own(wired):
    assert wired.strategy.instructions == "Be exact.\nBe kind.\nBe brief."


def test_each_episode_has_an_environment_of_its_own(wired):
    first, second = wired.environment(), wired.environment()
    first.seats.append(3)
    assert first is not second
    assert second.seats == [1, 2]
    assert wired.environment().seats == [1, 2]


def test_a_backend_that_calls_a_model_elsewhere_gets_no_path(wired, tmp_path):
    model = wired.backend.model
    assert (model.name, model.path, model.context) == ("some/model", None, 99)
    assert model.adapter == tmp_path / "lora", "beside agent.yaml"
    assert wired.backend.url == "here"


def test_a_backend_that_loads_a_model_gets_its_directory(tmp_path, registry, monkeypatch):
    (tmp_path / "agent.yaml").write_text(AGENT)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    monkeypatch.setattr(Echo, "capabilities", Echo.capabilities | {Capability.LOCAL_WEIGHTS})
    resolved = resolve(load_config(tmp_path / "agent.yaml", [f"model={tmp_path}"]), registry)
    assert build(resolved).backend.model.path == tmp_path


def test_an_agent_without_a_strategy_is_plain(tmp_path, registry):
    (tmp_path / "agent.yaml").write_text(AGENT)
    resolved = resolve(load_config(tmp_path / "agent.yaml", ["agent.strategy=null"]), registry)
    wired = build(resolved)
    assert (wired.strategy.name, wired.strategy.instructions) == ("plain", "Be kind.")
    assert [tool.name for tool in wired.tools] == ["dice", "coin"]


def test_options_that_do_not_fit_are_an_error(tmp_path, registry):
    (tmp_path / "agent.yaml").write_text(AGENT)
    resolved = resolve(load_config(tmp_path / "agent.yaml", ["rewards[0].options.wrd=x"]), registry)
    with pytest.raises(ConfigError) as error:
        resolve_use("reward", resolved.config.rewards[0], registry)
    assert str(error.value) == (
        'options of the reward "kind": wrd: unknown option "wrd". Did you mean "word"?'
    )


@pytest.mark.skipif(not embedder_available(), reason="no sentence model is installed")
def test_a_factory_that_takes_an_embedder_is_given_the_installed_sentence_model(tmp_path, registry):
    (tmp_path / "agent.yaml").write_text(AGENT)
    [item] = build(resolve(load_config(tmp_path / "agent.yaml", ["rewards=[likeness]"]), registry)).rewards
    assert item.reward.given == (sentence_embedder(), sentence_embedder())


def test_a_factory_that_needs_an_embedder_is_refused_if_none_is_installed(tmp_path, registry, monkeypatch):
    monkeypatch.setattr("grpo_host.models.sentence.find_spec", lambda name: None)
    (tmp_path / "agent.yaml").write_text(AGENT)
    resolved = resolve(load_config(tmp_path / "agent.yaml", ["rewards=[likeness]"]), registry)
    with pytest.raises(MissingExtraError, match=r"a sentence model needs .*\[embeddings\]"):
        build(resolved)


JUDGED = "rewards=[{name: judged, options: {judge: {name: judge, model: m, options: {replies: ['0.5']}}}}]"


async def test_a_rewards_own_backend_starts_when_asked_and_is_closed_with_the_rewards(tmp_path, registry):
    (tmp_path / "agent.yaml").write_text(AGENT)
    wired = build(resolve(load_config(tmp_path / "agent.yaml", [JUDGED]), registry))
    [backend] = wired.rewards[0].backends
    rewards = RewardSet(wired.rewards)

    async def score():
        before = backend.started
        [scored] = await rewards.score([make_trajectory("Hello.")])
        after = backend.started
        await close_backends(*rewards.backends)
        return before, scored.reward, after

    assert await score() == (False, 0.5, True)
    assert innermost(backend).closed == 1
    assert backend.model.context == 4096


def test_a_judge_that_was_looked_at_without_its_model_has_it_in_the_run(tmp_path, registry, monkeypatch):
    (tmp_path / "agent.yaml").write_text(AGENT)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    monkeypatch.setattr(Judge, "capabilities", Judge.capabilities | {Capability.LOCAL_WEIGHTS})
    judged = JUDGED.replace("model: m", f"model: {tmp_path}")
    resolved = resolve(load_config(tmp_path / "agent.yaml", [judged]), registry)
    looked_at = build_reward(resolved, 0)
    assert innermost(looked_at.reward.judge).model.path is None
    [item] = build(resolved).rewards
    assert item is looked_at
    assert innermost(item.reward.judge).model.path == tmp_path


VISITED = "environment={name: visited, options: {guest: {name: judge, model: m, options: {replies: [Hi!]}}}}"


async def test_an_environments_own_backend_is_one_for_all_episodes_and_is_closed_with_the_run(
    tmp_path, registry
):
    (tmp_path / "agent.yaml").write_text(AGENT)
    resolved = resolve(load_config(tmp_path / "agent.yaml", [VISITED]), registry)
    wired = build(resolved)
    [backend] = wired.environment_backends

    async def play():
        said = [(await wired.environment().reset(Task("t"), seed=0)).messages for _ in range(2)]
        await Assembly(resolved.config, wired).close()
        return said

    assert await play() == [[user("Hi!")]] * 2
    assert innermost(backend).calls == 2
    assert innermost(backend).closed == 1


async def test_an_environment_that_is_only_looked_at_has_a_stand_in_for_its_own_backend(tmp_path, registry):
    (tmp_path / "agent.yaml").write_text(AGENT)
    environment = build_environment(resolve(load_config(tmp_path / "agent.yaml", [VISITED]), registry))()
    [said] = (await environment.reset(Task("t"), seed=0)).messages
    assert said["content"] != "Hi!"
