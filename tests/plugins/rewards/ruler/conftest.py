"""Judges that read the prompt as a model would, and answer as they are told."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from grpo_rewards.ruler import RulerReward
from grpo_sdk import Backend, Capability, ChatReply, ModelSpec, assistant, user
from grpo_sdk.testing import make_trajectory

_RECORD = re.compile(r'Trajectory with the id "(\d+)":\n<(record-\w+)>\n(.*?)\n</\2>', re.DOTALL)


def records(messages: Sequence[Any]) -> dict[str, str]:
    """The trajectories in a judge's prompt, by id, in the order shown."""
    return {number: text for number, _, text in _RECORD.findall(messages[1]["content"])}


def answer(scores: dict[str, Any]) -> str:
    entries = [
        {"id": number, "explanation": f"why {number}", "score": score} for number, score in scores.items()
    ]
    return json.dumps({"scores": entries})


class FakeJudge(Backend):
    """Answers with what ``say`` returns for a prompt; what it raises, the call raises."""

    capabilities = frozenset({Capability.CHAT})

    def __init__(self, say: Callable[[Sequence[Any]], str], *, name: str = "fake", cost: Any = 0.25) -> None:
        super().__init__(ModelSpec(name))
        self.say = say
        self.cost = cost
        self.finish_reason = "stop"
        self.prompts: list[list[Any]] = []
        self.samplings: list[Any] = []
        self.starts = self.closed = 0

    async def start(self) -> None:
        self.starts += 1
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.closed += 1

    async def chat(self, messages, sampling, tools=()) -> ChatReply:
        self.prompts.append(list(messages))
        self.samplings.append(sampling)
        await asyncio.sleep(0)
        said = self.say(messages)
        return ChatReply(assistant(said), self.finish_reason, 100, 10, self.cost)


def quality(text: str) -> float:
    """The true worth of a test's answer, which says it."""
    found = re.search(r"worth (\d+)", text)
    return int(found[1]) / 100 if found else 0.0


def fair(messages: Sequence[Any]) -> str:
    return answer({number: quality(text) for number, text in records(messages).items()})


def group_of(*worths: int):
    return [make_trajectory(f"An answer worth {worth}.", sample=n) for n, worth in enumerate(worths)]


@pytest.fixture
def judging():
    """The parts of this file."""

    class Parts:
        Judge = FakeJudge
        records = staticmethod(records)
        answer = staticmethod(answer)
        fair = staticmethod(fair)
        quality = staticmethod(quality)
        group = staticmethod(group_of)
        user = staticmethod(user)

        @staticmethod
        def ruler(say: Any = fair, **options: Any) -> tuple[RulerReward, FakeJudge]:
            judge = say if isinstance(say, Backend) else FakeJudge(say)
            return RulerReward(judge, **{"pause": 0.0, **options}), judge

        @staticmethod
        def score(reward: RulerReward, group: Any) -> list[Any]:
            return asyncio.run(reward.score_group(group))

    return Parts
