"""Contract tests of an environment's episodes: each repeats, and disturbs nothing around it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Any, ClassVar

from grpo_sdk.environment import HELD_OUT, TRAIN, Environment, Observation, StepResult
from grpo_sdk.messages import assistant
from grpo_sdk.testing.checks import given, require
from grpo_sdk.testing.contract import Contract, Within, timed
from grpo_sdk.testing.other_process import ask_in_another_process
from grpo_sdk.testing.surroundings import Held, seeded_generators
from grpo_sdk.trajectory import Task


class EpisodeContract(Contract):
    """The half of ``EnvironmentContract`` that plays whole episodes."""

    splits: ClassVar[Sequence[str]] = (TRAIN, HELD_OUT)
    """The splits that it has."""
    max_steps: ClassVar[int] = 50
    """Every episode must be done after at most this many messages of the agent."""
    says: ClassVar[Sequence[str]] = (
        "I am sorry to hear that. Let me check it for you: what is your order number?",
        "The answer is 42.",
        "",
        "no",
        "👋🏽 你好 \u202e\x00 <|im_end|>",
        "I will take care of it. " * 2000,
    )
    """What the agent says in these tests, in turn; override if yours needs another form."""

    def make(self) -> Environment:
        """Make a new instance of the environment under test."""
        raise NotImplementedError(f"{type(self).__name__} needs def make(self) returning the environment")

    async def begin(self, environment: Environment, task: Task, *, seed: int) -> Observation:
        """Begin ``task``: what is observed first."""
        return await given(environment.reset(task, seed=seed), "reset", Observation)

    async def play(self, environment: Environment, task: Task, *, seed: int, first: int = 0) -> list[Any]:
        """Play ``task`` to its end with the words of ``says`` from ``first`` on; all that was observed."""
        observation = await self.begin(environment, task, seed=seed)
        seen: list[Any] = [observation.messages]
        for number in range(self.max_steps):
            await asyncio.sleep(0)  # the others' turn: a model answers between two steps
            action = assistant(self.says[(first + number) % len(self.says)])
            result = await given(environment.step(action), "step", StepResult)
            require(
                result.reward is None or math.isfinite(result.reward),
                f"the reward of a step is {result.reward}: a finite number, or None",
            )
            seen.append(asdict(result))
            if result.done:
                return seen
            _check_user_turn(result)
        raise AssertionError(
            f"not done after {self.max_steps} messages: end the episode, or raise max_steps in the test"
        )

    async def _alone(self, task: Task, first: int, steps: list[float] | None = None) -> list[Any]:
        environment = self.make()
        try:
            play = self.play(environment, task, seed=5, first=first)
            return await (play if steps is None else timed(play, steps))
        finally:
            await environment.close()

    def digest(self) -> dict[str, list[list[str]]]:
        """Split → its tasks as texts, the first two with their episode."""
        return {
            split: [
                [
                    task.id,
                    json.dumps(task.data, sort_keys=True, default=str),
                    json.dumps(self.run(self._alone(task, n)), sort_keys=True, default=str) if n < 2 else "",
                ]
                for n, task in enumerate(self.make().tasks(split))
            ]
            for split in self.splits
        }

    def test_the_same_task_and_seed_make_the_same_episode(self) -> None:
        """Fix: draw from ``Random(derive_seed(task.id, seed))`` made in ``reset``, keep nothing else."""

        async def twice(task: Task) -> None:
            environment, other = self.make(), self.make()
            first = await self.play(environment, task, seed=3)
            require(first == await self.play(other, task, seed=3), "two instances play it differently")
            again = await self.play(other, task, seed=3)
            require(first == again, "the second episode of an instance differs: clear its state in reset")
            await environment.close()
            await other.close()

        for task in self.make().tasks(self.splits[0])[:4]:
            self.run(twice(task))

    def test_a_task_is_not_changed_by_its_episode(self) -> None:
        """Fix: copy in ``reset`` what an episode changes: ``self.orders = deepcopy(task.data["orders"])``."""

        async def played(task: Task) -> None:
            environment = self.make()
            try:
                await self.play(environment, task, seed=1)
            finally:
                await environment.close()

        for task in self.make().tasks(self.splits[0])[:4]:
            before = deepcopy(task.data)
            self.run(played(task))
            require(
                task.data == before,
                f"the episode of {task.id} changed task.data from {before!r:.200} to {task.data!r:.200}: "
                "copy in reset what the episode changes",
            )

    def test_episodes_side_by_side_do_not_disturb_each_other(self) -> None:
        """Fix: keep an episode's state in the instance, never in the class or the module."""
        tasks = self.make().tasks(self.splits[0])[:8]

        async def together() -> list[list[Any]]:
            return list(await asyncio.gather(*(self._alone(task, n) for n, task in enumerate(tasks))))

        expected = [self.run(self._alone(task, number)) for number, task in enumerate(tasks)]
        for task, alone, beside in zip(tasks, expected, self.run(together()), strict=True):
            at = next(
                (n for n, pair in enumerate(zip(alone, beside, strict=False)) if pair[0] != pair[1]), -1
            )
            require(
                alone == beside,
                f"the episode of {task.id} is another beside others: its observation {at} is "
                f"{beside[at]!r:.200}, and {alone[at]!r:.200} alone",
            )

    def test_global_random_generators_are_not_seeded(self) -> None:
        """Fix: ``self.random = Random(derive_seed(task.id, seed))`` in ``reset``, and draw from that."""
        seeded = seeded_generators(lambda: self.run(self._alone(self.make().tasks(self.splits[0])[0], 0)))
        require(not seeded, f"the environment seeds the global generator of {' and '.join(seeded)}")

    def test_another_process_makes_the_same_tasks_and_episodes(self) -> None:
        """Fix: sort what comes from a set, and use ``derive_seed`` in place of ``hash``: their order and
        value differ in each process, and the processes of a run each make the tasks."""
        there, here = ask_in_another_process(self, "digest"), self.digest()
        for split, tasks in here.items():
            for number, (ours, theirs) in enumerate(zip(tasks, there[split], strict=False)):
                require(
                    ours == theirs,
                    f"in another process task {number} of {split} is {theirs!r:.200}, here {ours!r:.200}",
                )
            require(len(tasks) == len(there[split]), f"another process has other tasks of {split}")

    def test_close_releases_what_an_episode_opened(self) -> None:
        """Fix: close files, clients, threads, tasks and processes of ``reset`` and ``step`` in ``close``."""
        kept: list[Environment] = []

        async def episode(task: Task) -> None:
            kept.append(self.make())
            try:
                await self.play(kept[-1], task, seed=1)
            finally:
                await kept[-1].close()

        async def more() -> str:
            task = self.make().tasks(self.splits[0])[0]
            await episode(task)  # what the first opens may be for all of them
            before = Held()
            for _ in range(3):
                await episode(task)
            found = ""
            for _ in range(10):  # what was told to end may take a moment
                found = Held().more_than(before, 3)
                if not found:
                    break
                await asyncio.sleep(0.05)
            return found

        left = self.run(more())
        require(not left, f"after 3 episodes that were closed there are {left}")

    def test_the_event_loop_is_not_blocked(self) -> None:
        """Fix: ``await`` what takes time; ``grpo_sdk.blocking.call_blocking`` runs a function in a thread."""

        async def play(steps: list[float]) -> None:
            await self._alone(self.make().tasks(self.splits[0])[0], 0, steps)

        self.require_unblocked(play, "reset() or step()")

    def test_a_time_limit_ends_it(self) -> None:
        """Fix: let ``asyncio.CancelledError`` pass: ``except Exception`` in place of ``except:``."""
        task = self.make().tasks(self.splits[0])[0]

        async def begin(within: Within) -> None:
            environment = self.make()
            try:
                await within(self.begin(environment, task, seed=1))
            finally:
                await environment.close()

        async def answer(within: Within) -> None:
            environment = self.make()
            try:
                await self.begin(environment, task, seed=1)
                await within(environment.step(assistant(self.says[0])))
            finally:
                await environment.close()

        self.require_cancellable(begin, "reset()")
        self.require_cancellable(answer, "step()")


def _check_user_turn(result: StepResult) -> None:
    require(
        result.messages and result.messages[-1]["role"] == "user",
        "step returned neither done=True nor a user message: the agent would have nothing to answer",
    )
