"""Dialogues of a good agent at the order desk, played against the same desk that episodes use."""

from __future__ import annotations

import json
from collections.abc import Iterable
from random import Random

from grpo_environments.order_desk.dialogue import OrderDialogue
from grpo_environments.order_desk.phrases import ANSWERS, ASKS_ID, NOT_FOUND
from grpo_sdk.messages import Message, assistant, tool_call, tool_result, user
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task


def demonstrate(tasks: Iterable[Task]) -> list[list[Message]]:
    """One dialogue per task; it looks up the order again for every question."""
    return [_demonstration(task) for task in tasks]


def _demonstration(task: Task) -> list[Message]:
    rng = Random(derive_seed("order_desk", "demonstration", task.id))
    dialogue = OrderDialogue.of(task.data)
    messages = [user(dialogue.question.text)]
    while not dialogue.done:
        question = dialogue.question
        if question.order not in dialogue.id_known:
            said = rng.choice(ASKS_ID)
        else:
            arguments = json.dumps({"order_id": question.order})
            call = tool_call("lookup_order", arguments, f"call_{len(dialogue.lookups) + 1}")
            found = dialogue.lookup(question.order)
            messages += [assistant("", [call]), tool_result(call, found)]
            facts = dialogue.orders.get(question.order)
            wordings = ANSWERS[question.field] if facts else NOT_FOUND
            value = facts[question.field] if facts else ""
            said = rng.choice(wordings).format(id=question.order, value=value)
        messages.append(assistant(said))
        if reply := dialogue.hear(said):
            messages.append(user(reply))
    return messages
