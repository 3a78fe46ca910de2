"""A plugin with one of everything, and agent.yaml files that use it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest

from grpo_host.checks.check import Report, check
from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.plugins import Registry
from grpo_sdk import (
    Backend,
    Capability,
    Environment,
    Observation,
    Reward,
    StepResult,
    Strategy,
    Task,
    hookimpl,
    reward,
    user,
)
from grpo_sdk.backend import TRAINABLE


class Engine(Backend):
    """Can be trained, loads a model."""

    capabilities = TRAINABLE | {Capability.LOCAL_WEIGHTS, Capability.RANKS}


class Servers(Engine):
    """Takes new weights as adapters."""

    capabilities = Engine.capabilities | {Capability.ADAPTER_SYNC}


class Alone(Engine):
    """Works in one process."""

    capabilities = Engine.capabilities - {Capability.RANKS}


class Remote(Backend):
    """Chats, without tools."""

    capabilities = frozenset({Capability.CHAT})

    def __init__(self, model: Any, *, url: str = "http://here") -> None:
        super().__init__(model)
        if not url.startswith("http"):
            raise ValueError("url must begin with http")


class Mute(Backend):
    capabilities = frozenset({Capability.SEED})


class Unready(Remote):
    requires = ("an_engine_that_is_not_there.core",)
    extra = "vllm"


class UnreadyElsewhere(Unready):
    extra = "acme-engine"


def lookup(order: str) -> str:
    """Look up an order."""
    return order


class Shop(Environment):
    """Its options bend it."""

    closed: ClassVar[list[str]] = []
    """How each hung that was closed: a rude one is so long after its test."""

    def __init__(
        self,
        *,
        train: int = 8,
        held_out: int = 40,
        shared: bool = False,
        twice: bool = False,
        tools: bool = False,
        demonstrations: int = 0,
        fails: str = "",
        hangs: str = "",
    ) -> None:
        self.splits = {
            "train": [f"train-{n}" for n in range(train)],
            "held_out": [f"{'train' if shared else 'held'}-{n}" for n in range(held_out)],
        }
        if twice:
            self.splits["train"].append("train-0")
        self.with_tools, self.dialogues, self.fails, self.hangs = tools, demonstrations, fails, hangs

    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(id_, split=split) for id_ in self.splits[split]]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        if self.fails:
            raise RuntimeError(self.fails)
        if self.hangs == "politely":
            await asyncio.sleep(60)
        if self.hangs:
            time.sleep(2)  # noqa: ASYNC251 - as a rude plugin would
        return Observation([user("hello")])

    async def step(self, action: Any) -> StepResult:
        return StepResult(done=True)

    def tools(self) -> Sequence[Callable[..., Any]]:
        return (lookup,) if self.with_tools else ()

    def demonstrations(self, split: str) -> Sequence[list[Any]]:
        return [[user("hello")]] * self.dialogues

    async def close(self) -> None:
        self.closed.append(self.hangs)


class Loading(Shop):
    """Loads something large before its first episode."""

    start_seconds = 30.0

    async def reset(self, task: Task, *, seed: int) -> Observation:
        await asyncio.sleep(0.5)
        return await super().reset(task, seed=seed)


class Visited(Shop):
    """Has a customer of its own."""

    def __init__(self, *, guest: Backend) -> None:
        super().__init__()


@reward
def kind(trajectory: Any, *, word: str = "please") -> float:
    return 1.0


class Judged(Reward):
    """Asks a backend of its own."""

    def __init__(self, judge: Backend, *, second: Backend | None = None, rubric: str = "Be kind.") -> None:
        self.judge = judge

    def score(self, trajectory: Any) -> float:
        return 0.0


class Strict(Reward):
    def __init__(self, *, low: int = 0, high: int = 1) -> None:
        if low > high:
            raise ValueError("low is above high")

    def score(self, trajectory: Any) -> float:
        return 0.0


def make_lookup() -> Callable[..., Any]:
    return lookup


def make_dice(*, sides: int = 6) -> Callable[..., Any]:
    def dice() -> str:
        """Throw the die."""
        return str(sides)

    return dice


class Shopkeeper:
    @hookimpl
    def grpo_backends(self) -> Any:
        return {
            "engine": Engine,
            "servers": Servers,
            "alone": Alone,
            "remote": Remote,
            "mute": Mute,
            "unready": Unready,
            "unready_elsewhere": UnreadyElsewhere,
        }

    @hookimpl
    def grpo_environments(self) -> Any:
        return {"shop": Shop, "loading": Loading, "visited": Visited, "nothing": lambda: 3}

    @hookimpl
    def grpo_rewards(self) -> Any:
        return {"kind": kind, "strict": Strict, "judged": Judged, "number": lambda: 1.0}

    @hookimpl
    def grpo_tools(self) -> Any:
        return {"lookup": make_lookup, "dice": make_dice, "number": lambda: 1.0}

    @hookimpl
    def grpo_strategies(self) -> Any:
        return {
            "clerk": lambda: Strategy("clerk", "Be exact.", "Be brief.", tools=("lookup",)),
            "anyone": lambda: Strategy("anyone"),
            "number": lambda: 1.0,
        }


AGENT = """\
name: desk
model: {path}
backend: engine
environment: shop
rewards:
  - kind
output: {output}
"""


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.register(Shopkeeper(), "shop")
    return made


@pytest.fixture
def agent_yaml(tmp_path, monkeypatch):
    """agent.yaml of a shop's agent, in the working directory, without problems."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").touch()
    text = AGENT.format(path="./model", output=tmp_path / "runs")
    (tmp_path / "agent.yaml").write_text(text)
    return "agent.yaml"


@pytest.fixture
def report(agent_yaml, registry):
    """Checks the shop's agent with overrides."""

    def report(*overrides: Any, purpose: Any = "train") -> Report:
        return check(resolve(load_config(agent_yaml, overrides), registry), purpose=purpose)

    return report


@pytest.fixture
def problems(report):
    """What is wrong with the shop's agent with overrides."""
    return lambda *overrides, **options: [str(p) for p in report(*overrides, **options).problems]
