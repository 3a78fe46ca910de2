"""Contract tests of environments: inherit, say how to make yours, run pytest.

from grpo_sdk.testing import EnvironmentContract

class TestEcho(EnvironmentContract):
    def make(self):
        return EchoEnvironment()
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from grpo_sdk.blocking import settled
from grpo_sdk.messages import Message, ToolSchema, assistant
from grpo_sdk.testing.checks import given, require, require_description, require_json, skip
from grpo_sdk.testing.episode_contract import EpisodeContract
from grpo_sdk.toolbox import Toolbox
from grpo_sdk.tools import ToolLike
from grpo_sdk.trajectory import Task


class EnvironmentContract(EpisodeContract):
    """What the host relies on in every ``Environment``."""

    def test_every_split_has_tasks_with_their_own_ids(self) -> None:
        """Fix: give every task an id that is unique within the environment, and its split."""
        ids: list[str] = []
        for split in self.splits:
            tasks = self.make().tasks(split)
            require(tasks, f"the split {split} has no task")
            for task in tasks:
                require(task.split == split, f"the task {task.id} of {split} says split={task.split!r}")
            ids += [task.id for task in tasks]
        double = {task_id for task_id in ids if ids.count(task_id) > 1} if len(set(ids)) < len(ids) else ()
        require(not double, f"several tasks are called {sorted(double)[:5]}")

    def test_tasks_are_a_list(self) -> None:
        """Fix: return a list: the host counts the tasks, and reads them more than once."""
        for split in self.splits:
            tasks: object = self.make().tasks(split)
            is_list = isinstance(tasks, Sequence) and not isinstance(tasks, str)
            require(is_list, f"tasks({split!r}) is no list but of the class {type(tasks).__name__}")

    def test_tasks_can_be_written_as_json(self) -> None:
        """Fix: put only dicts with string keys, lists, strings, numbers, booleans and None in data."""
        for split in self.splits:
            for task in self.make().tasks(split):
                require_json(task.data, f"the data of the task {task.id}")

    def test_tasks_are_the_same_each_time(self) -> None:
        """Fix: draw tasks from a fixed seed (``derive_seed``), not from ``random`` or a set's order."""
        for split in self.splits:
            require(
                list(self.make().tasks(split)) == list(self.make().tasks(split)),
                f"the tasks of {split} differ between two instances",
            )

    def test_splits_have_no_task_in_common(self) -> None:
        """Fix: keep what is held out apart: a score on tasks seen in training says nothing."""
        seen: dict[str, str] = {}
        for split in self.splits:
            for task in self.make().tasks(split):
                content = json.dumps(task.data, sort_keys=True)
                other = seen.setdefault(content, split)
                require(other == split, f"the task {task.id} of {split} is also in {other}: {content:.200}")

    def test_splits_begin_with_different_messages(self) -> None:
        """Fix: as above; here the first messages are compared, whatever the data says."""

        async def openings(split: str) -> set[str]:
            environment = self.make()
            found = set()
            for task in self.make().tasks(split):
                observation = await self.begin(environment, task, seed=0)
                found.add("\n".join(message["content"] for message in observation.messages))
            await environment.close()
            return found

        sets = [self.run(openings(split)) for split in self.splits]
        for number, one in enumerate(sets):
            for other in sets[number + 1 :]:
                require(not one & other, f"splits share an opening: {next(iter(one & other), '')!r:.200}")

    def test_an_unknown_split_is_refused(self) -> None:
        """Fix: raise ``ValueError`` naming the splits; an empty list would train on nothing."""
        try:
            self.make().tasks("no-such-split")
        except ValueError:
            return
        raise AssertionError("tasks('no-such-split') raised no ValueError")

    def test_an_episode_begins_with_the_users_words(self) -> None:
        """Fix: return messages that end with a user message; a system message may come first."""

        async def begin(task: Task) -> list[Message]:
            environment = self.make()
            try:
                return (await self.begin(environment, task, seed=1)).messages
            finally:
                await environment.close()

        for split in self.splits:
            messages = self.run(begin(self.make().tasks(split)[0]))
            require(messages and messages[-1]["role"] == "user", f"it begins with {messages!r:.200}")
            for message in messages:
                require(message["content"].strip(), "it begins with an empty message")

    def test_every_episode_ends_with_facts(self) -> None:
        """Fix: end with ``StepResult(done=True, outcome={...})``; success is a bool, score in [0, 1]."""

        async def outcome(task: Task, first: int) -> dict[str, Any]:
            environment = self.make()
            try:
                last = (await self.play(environment, task, seed=1, first=first))[-1]
                return {**environment.outcome(), **last["outcome"]}
            finally:
                await environment.close()

        for split in self.splits:
            for number, task in enumerate(self.make().tasks(split)[:8]):
                facts = self.run(outcome(task, number))
                require_json(facts, f"the outcome of {task.id}")
                if "success" in facts:
                    require(isinstance(facts["success"], bool), f"success is {facts['success']!r}, no bool")
                if "score" in facts:
                    require(0.0 <= facts["score"] <= 1.0, f"score is {facts['score']!r}")

    def test_the_outcome_can_be_read_at_any_time(self) -> None:
        """Fix: a time limit may end an episode anywhere: return the facts so far, success False."""

        async def read(task: Task) -> list[dict[str, Any]]:
            environment = self.make()
            found = [environment.outcome()]
            await self.begin(environment, task, seed=1)
            found.append(environment.outcome())
            await environment.step(assistant(""))
            found.append(environment.outcome())
            await environment.close()
            return found

        for facts in self.run(read(self.make().tasks(self.splits[0])[0])):
            require_json(facts, "the outcome")
            require(facts.get("success") is not True, "an episode of one empty message is a success")

    def test_its_tools_are_ready_to_use(self) -> None:
        """Fix: return a list of functions with type hints and a docstring, or of ``BaseTool``s; names must
        differ."""

        async def tools(task: Task) -> Toolbox:
            environment = self.make()
            await self.begin(environment, task, seed=1)
            try:
                made: object = await settled(environment.tools())
                require(
                    isinstance(made, Sequence), f"tools() is no list but of the class {type(made).__name__}"
                )
                return Toolbox(cast("Sequence[ToolLike]", made))
            finally:
                await environment.close()

        for schema in self.run(tools(self.make().tasks(self.splits[0])[0])).schemas:
            require_json(schema, f"the schema of the tool {schema['function'].get('name')}")
            require_description(schema["function"])

    def test_its_serving_tools_look_as_its_tools_do(self) -> None:
        """Fix: keep name, parameters and docstring: the model knows the tool as it was trained with it."""

        async def schemas(task: Task) -> tuple[list[ToolSchema], list[ToolSchema]]:
            environment, serving = self.make(), self.make()
            await self.begin(environment, task, seed=1)
            try:
                own = Toolbox(await settled(environment.tools()))
                return own.schemas, Toolbox(serving.serving_tools()).schemas
            finally:
                await environment.close()
                await serving.close()

        known, served = self.run(schemas(self.make().tasks(self.splits[0])[0]))
        if not served:
            skip("the environment has no tools for serving")
        for schema in served:
            name = schema["function"]["name"]
            require(schema in known, f"the serving tool {name} is none of the tools, or has another schema")

    def test_close_may_be_called_early_and_twice(self) -> None:
        """Fix: ``reset`` may have failed before: let ``close`` check what is open."""

        async def close() -> None:
            environment = self.make()
            await given(environment.close(), "close", object)
            await given(environment.close(), "close", object)

        self.run(close())

    def test_demonstrations_are_dialogues_that_can_be_imitated(self) -> None:
        """Fix: user first (after a system message), agent last; calls have JSON arguments and one answer."""
        dialogues = self.make().demonstrations(self.splits[0])
        if not dialogues:
            skip("the environment has no demonstrations")
        for dialogue in dialogues:
            _check_dialogue(dialogue)


def _check_dialogue(dialogue: Sequence[Message]) -> None:
    shown = [message["role"] for message in dialogue]
    opening = shown[1:] if shown[:1] == ["system"] else shown
    require(opening[:1] == ["user"], f"a demonstration does not begin with a user: {shown}")
    require(shown[-1] == "assistant", f"a demonstration does not end with the agent: {shown}")
    waiting: list[str] = []
    for message in dialogue:
        if message["role"] == "tool":
            require(
                message.get("tool_call_id") in waiting,
                f"a tool result answers no open call: {message!r:.200}",
            )
            waiting.remove(message["tool_call_id"])
            continue
        require(not waiting, f"a tool call is not answered before the next message: {waiting}")
        for call in message.get("tool_calls", []):
            waiting.append(call["id"])
            arguments = json.loads(call["function"]["arguments"])
            require(isinstance(arguments, dict), f"arguments are no JSON object: {arguments!r:.200}")
    require(not waiting, f"a tool call is never answered: {waiting}")
