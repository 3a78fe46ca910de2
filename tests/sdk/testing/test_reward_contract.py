"""The contract of rewards names each of these mistakes, and says how to mend it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Any, ClassVar

import pytest

from grpo_sdk import Reward
from grpo_sdk.testing import RewardContract


class LengthReward(Reward):
    """Makes no mistake: the share of 100 characters that the answer has."""

    def score(self, trajectory: Any) -> Any:
        return min(1.0, len(trajectory.policy_text) / 100)


class ById(LengthReward):
    def __init__(self) -> None:
        self.known: dict[str, float] = {}

    def score(self, trajectory: Any) -> Any:
        return self.known.setdefault(trajectory.id, super().score(trajectory))


class Seeding(LengthReward):
    def score(self, trajectory: Any) -> Any:
        random.seed(len(trajectory.policy_text))
        return random.random()


class Blocking(LengthReward):
    async def score(self, trajectory: Any) -> Any:
        time.sleep(0.04)  # noqa: ASYNC251
        return super().score(trajectory)


class LastAsked(LengthReward):
    """Keeps what it is asked in an attribute while it waits."""

    async def score(self, trajectory: Any) -> Any:
        self.trajectory = trajectory
        await asyncio.sleep(0)
        return super().score(self.trajectory)


class Polluting(LengthReward):
    def score(self, trajectory: Any) -> Any:
        trajectory.outcome["seen"] = True
        return super().score(trajectory)


class Stubborn(LengthReward):
    async def score(self, trajectory: Any) -> Any:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(5)


class ClosesLater(LengthReward):
    async def close(self) -> None: ...  # type: ignore[override]


MISTAKES = [
    (Stubborn, "test_a_time_limit_ends_it", "score() catches its cancellation and goes on"),
    (ClosesLater, "test_close_may_be_called_twice", 'nobody waits: write "def close"'),
    (ById, "test_trajectories_of_one_id_are_scored_each_on_its_own", "remembered by the trajectory's id"),
    (Seeding, "test_global_random_generators_are_not_seeded", "seeds the global generator of random"),
    (Blocking, "test_the_event_loop_is_not_blocked", "score() blocked the event loop for 0."),
    (LastAsked, "test_many_may_be_scored_at_once", "scores differ where several are asked for at once"),
    (Polluting, "test_scoring_changes_nothing", "the reward changed the trajectory that it scored"),
]


@pytest.mark.parametrize(("mistake", "test", "message"), MISTAKES)
def test_each_mistake_is_named_with_its_mending(
    mistake: type[Reward], test: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo_sdk.deadline.GRACE_SECONDS", 0.05)

    class Contract(RewardContract):
        blocking_seconds = 0.02

        def make(self) -> Reward:
            return mistake()

    with pytest.raises(AssertionError) as raised:
        getattr(Contract(), test)()
    assert message in str(raised.value)
    assert "\nFix: " in str(raised.value)


class HoldsAClient(LengthReward):
    """Its client is tied to the event loop that first used it, as those of HTTP libraries are."""

    client: ClassVar[list[asyncio.AbstractEventLoop]] = []

    async def score(self, trajectory: Any) -> Any:
        if not self.client:
            self.client.append(asyncio.get_running_loop())
        if self.client != [asyncio.get_running_loop()]:
            raise RuntimeError("the client's event loop is closed")
        return super().score(trajectory)


class TestOneThatHoldsAClient(RewardContract):
    def make(self) -> Reward:
        return HoldsAClient()


class TestOneWithoutAMistake(RewardContract):
    def make(self) -> Reward:
        return LengthReward()


def test_the_global_generators_are_left_as_they_were() -> None:
    before = random.getstate()
    TestOneWithoutAMistake().test_global_random_generators_are_not_seeded()
    assert random.getstate() == before


def test_what_a_plugin_raises_has_the_mending_as_a_note() -> None:
    class Unmade(RewardContract):
        def make(self) -> Reward:
            raise KeyError("n")

    with pytest.raises(KeyError) as raised:
        Unmade().test_close_may_be_called_twice()
    assert raised.value.__notes__ == ["Fix: let ``close`` check what is still open."]
