"""The order_desk environment: orders are looked up with a tool, answers checked against the order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from grpo_environments.order_desk.demonstrations import demonstrate
from grpo_environments.order_desk.dialogue import OrderDialogue
from grpo_environments.order_desk.orders import FIELDS
from grpo_environments.order_desk.tasks import TaskOptions, make_tasks
from grpo_environments.splits import is_held_out, require_between, require_rate
from grpo_sdk.environment import HELD_OUT, Environment, Observation, StepResult
from grpo_sdk.messages import Message, user
from grpo_sdk.tools import ToolLike
from grpo_sdk.trajectory import Task

FORM_FIELDS = ("status",)
"""The fields that demonstrations ask about; GRPO has to find the answers for the others."""


class OrderDeskEnvironment(Environment):
    """A customer asks about orders; the agent calls ``lookup_order`` and answers from the result.

    A question is answered if the right order was looked up and the message states the fact
    asked for, no other value of that field, and does not read the whole record out. ``outcome``:
    ``success`` (every question answered), ``score`` (partial credit, a mean over the questions),
    ``called_tool``, ``right_order``, ``answered`` (shares of the questions), ``lookups``.

    Ids, names and wordings of train and held-out tasks are disjoint; facts are drawn for each
    task, so that they can only be read, not remembered.
    """

    def __init__(
        self,
        *,
        questions: int = 2,
        fields: tuple[str, ...] = tuple(FIELDS),
        same_order_rate: float = 0.5,
        missing_rate: float = 0.0,
        withhold_id_rate: float = 0.0,
        train_tasks: int = 512,
        held_out_tasks: int = 128,
        task_seed: int = 0,
        demonstrations: Literal["form", "whole"] = "form",
        tools: Literal["own", "app"] = "own",
    ) -> None:
        """Set the options.

        ``questions``: how many the customer asks, one after another. ``fields``: what he asks
        for. ``same_order_rate``: share of further questions about the same order.
        ``missing_rate``: share of orders that do not exist; the agent has to say so.
        ``withhold_id_rate``: share of customers who name their order only when asked.
        ``demonstrations``: ``form`` shows only how the tool is called, on single questions about a
        status; ``whole`` shows whole tasks of the same kind as those that are posed.
        ``tools``: ``app`` if the agent brings a ``lookup_order`` of its own, which looks up the ``orders`` of
        the task; its calls count as those of the desk's would.
        ``task_seed``: other tasks. Raises ``ValueError`` for an unknown field or a share
        outside [0, 1].
        """
        require_between("questions", questions, 1, 8)
        require_between("train_tasks", train_tasks, 1, 100_000)
        require_between("held_out_tasks", held_out_tasks, 1, 100_000)
        require_rate("same_order_rate", same_order_rate)
        require_rate("missing_rate", missing_rate)
        require_rate("withhold_id_rate", withhold_id_rate)
        unknown = [field for field in fields if field not in FIELDS]
        if unknown or not fields:
            named = f"there is no {unknown[0]}" if unknown else "it is empty"
            raise ValueError(f"fields: {named}; choose from: {', '.join(FIELDS)}")
        self._options = TaskOptions(
            questions, tuple(fields), same_order_rate, missing_rate, withhold_id_rate, task_seed
        )
        self._demonstrated = self._options
        if demonstrations == "form":
            self._demonstrated = TaskOptions(1, FORM_FIELDS, 0.0, 0.0, 0.0, task_seed + 1)
        self._counts = (train_tasks, held_out_tasks)
        self._dialogue: OrderDialogue | None = None
        self._app_has_tools = tools == "app"

    def tasks(self, split: str) -> Sequence[Task]:
        return make_tasks(split, self._counts[is_held_out(split)], self._options)

    def demonstrations(self, split: str) -> Sequence[list[Message]]:
        return demonstrate(make_tasks(split, self._counts[is_held_out(split)], self._demonstrated))

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self._dialogue = OrderDialogue.of(task.data)
        return Observation([user(self._dialogue.question.text)])

    async def step(self, action: Message) -> StepResult:
        dialogue = self._begun()
        reply = "" if dialogue.done else dialogue.hear(action["content"])
        if dialogue.done:
            return StepResult(done=True, outcome=dialogue.outcome())
        return StepResult([user(reply)])

    def tools(self) -> Sequence[ToolLike]:
        return () if self._app_has_tools else (self.lookup_order,)

    def follow(self, messages: Sequence[Message]) -> None:
        if not self._app_has_tools:
            return
        calls = [call["function"] for message in messages for call in message.get("tool_calls", ())]
        for call in calls:
            if call["name"] == "lookup_order":
                self._begun().lookup(_order_id(call["arguments"]))

    def serving_tools(self) -> Sequence[ToolLike]:
        """``lookup_order`` on a shop for trying the agent: it has the orders of the held-out tasks."""
        orders: dict[str, dict[str, str]] = {}
        for task in self.tasks(HELD_OUT):
            orders = {**task.data["orders"], **orders}
        shop = OrderDeskEnvironment()
        shop._dialogue = OrderDialogue(orders, [])
        return shop.tools()

    async def lookup_order(self, order_id: str) -> str:
        """Look up an order: its item, status, eta (day of arrival) and carrier.

        Args:
            order_id: The order number, such as K482.
        """
        return self._begun().lookup(order_id)

    def outcome(self) -> dict[str, Any]:
        return self._dialogue.outcome() if self._dialogue else {}

    def _begun(self) -> OrderDialogue:
        if self._dialogue is None:
            raise RuntimeError("order_desk: reset comes before step and tools")
        return self._dialogue


def _order_id(arguments: str) -> str:
    """What a call looks up; a malformed call, nothing."""
    try:
        return str(json.loads(arguments).get("order_id", ""))
    except (ValueError, AttributeError):
        return ""
