from __future__ import annotations

import json

import pytest

from grpo_environments.order_desk.environment import OrderDeskEnvironment
from grpo_environments.order_desk.orders import FIELDS, says_not_found, stated
from grpo_environments.order_desk.phrases import ANSWERS, ASKS_ID, NOT_FOUND
from grpo_sdk import Environment, Task, assistant
from grpo_sdk.testing import EnvironmentContract
from grpo_sdk.tools import as_tool

FACTS = {"item": "lamp", "status": "shipped", "eta": "Friday", "carrier": "DHL"}


class TestOrderDesk(EnvironmentContract):
    def make(self) -> Environment:
        return OrderDeskEnvironment(missing_rate=0.2, withhold_id_rate=0.3)


class TestLongOrderDesk(EnvironmentContract):
    def make(self) -> Environment:
        return OrderDeskEnvironment(questions=4, fields=("eta", "status"), train_tasks=20, held_out_tasks=20)


def question(order: str = "K482", field: str = "status", **changes: object) -> dict[str, object]:
    text = f"What is the {field} of {order}?"
    return {
        "order": order,
        "field": field,
        "text": text,
        "names_order": True,
        "gives_id": f"It is {order}.",
        **changes,
    }


async def play(questions: list[dict[str, object]], *turns: tuple[list[str], str], orders=None):
    """Each turn is what the agent looks up, and then says; what the customer says, and the outcome."""

    environment = OrderDeskEnvironment()
    data = {
        "customer": "Ann",
        "orders": {"K482": FACTS} if orders is None else orders,
        "questions": questions,
    }
    said = [(await environment.reset(Task("t", data), seed=0)).messages[0]["content"]]
    for lookups, text in turns:
        for order in lookups:
            await environment.lookup_order(order)
        result = await environment.step(assistant(text))
        said += [message["content"] for message in result.messages]
    return said, {**environment.outcome(), **result.outcome}


async def test_looking_up_and_answering_is_a_success():
    _, outcome = await play([question()], (["K482"], "Your order K482 is shipped."))
    assert outcome["success"] is True
    assert outcome["score"] == 1.0


@pytest.mark.parametrize(
    ("lookups", "answer", "score"),
    [
        ([], "Hello.", 0.0),
        ([], "Your order is shipped.", 0.0),
        (["X999"], "Your order is shipped.", 0.15),
        (["K482"], "I do not know.", 0.5),
        (["K482"], "Your order is delayed.", 0.5),
        (["K482"], "It is shipped, packed, delayed or paid.", 0.5),
        (["K482"], "It is not shipped.", 0.5),
        (["K482"], "It is shipped and comes on Friday.", 1.0),
        (["K482"], "A lamp, shipped, Friday, DHL.", 0.5),
        (["K482"], '{"item": "lamp", "status": "shipped"}', 0.5),
        (["X999", "K482"], "It is shipped.", 1.0),
        (["#k482 "], "It is SHIPPED, it was not delayed.", 1.0),
    ],
)
async def test_credit_is_given_step_by_step(lookups, answer, score):
    _, outcome = await play([question()], (lookups, answer))
    assert outcome["score"] == pytest.approx(score)
    assert outcome["success"] is (score == 1.0)


async def test_the_customer_asks_his_next_question_and_both_must_be_answered():
    further = question(field="eta", text="Thanks. When does it arrive?", names_order=False)
    said, outcome = await play([question(), further], (["K482"], "It is shipped."), ([], "On Friday."))
    assert said == ["What is the status of K482?", "Thanks. When does it arrive?"]
    assert outcome["success"] is True, "the first result still tells the second fact"
    _, outcome = await play([question(), further], (["K482"], "It is shipped."), (["K482"], "On Monday."))
    assert outcome["success"] is False
    assert outcome["score"] == pytest.approx(0.75)


async def test_an_order_that_does_not_exist_must_be_reported_as_such():
    _, outcome = await play([question()], (["K482"], "I could not find order K482."), orders={})
    assert outcome["success"] is True
    _, outcome = await play([question()], (["K482"], "Your order is shipped."), orders={})
    assert outcome["success"] is False
    _, outcome = await play([question()], ([], "I could not find order K482."), orders={})
    assert outcome["success"] is False


async def test_a_withheld_id_is_given_when_asked_for():
    withheld = question(text="What is the status of my order?", names_order=False)
    said, outcome = await play([withheld], ([], "What is your order number?"), (["K482"], "It is shipped."))
    assert said == ["What is the status of my order?", "It is K482."]
    assert outcome["success"] is True


async def test_a_withheld_id_that_nobody_asks_for_fails_the_question_and_comes_with_the_next():
    withheld = question(text="What is the status of my order?", names_order=False)
    further = question(field="eta", text="And when does it arrive?", names_order=False)
    said, outcome = await play([withheld, further], ([], "It is shipped."), (["K482"], "On Friday."))
    assert said[1] == "And when does it arrive? It is K482."
    assert outcome["answered"] == 0.5


async def test_an_unfinished_episode_has_partial_credit_and_no_success():
    _, outcome = await play([question(), question()], (["K482"], "It is shipped."))
    assert outcome["success"] is False
    assert 0.5 <= outcome["score"] < 1.0


async def test_the_tool_answers_in_short_json():
    async def look(order: str) -> str:
        environment = OrderDeskEnvironment()
        await environment.reset(Task("t", {"orders": {"K482": FACTS}, "questions": [question()]}), seed=0)
        return await environment.lookup_order(order)

    assert await look("K482") == json.dumps(FACTS)
    assert await look("K483") == '{"error": "order not found"}'


def test_ids_names_and_wordings_of_the_splits_are_disjoint():
    environment = OrderDeskEnvironment(withhold_id_rate=0.2)
    ids, names, wordings = [], [], []
    for split in ("train", "held_out"):
        tasks = environment.tasks(split)
        ids.append({question["order"] for task in tasks for question in task.data["questions"]})
        names.append({task.data["customer"] for task in tasks})
        wordings.append({wording(task, question) for task in tasks for question in task.data["questions"]})
    for train, held_out in (ids, names, wordings):
        assert train
        assert not train & held_out


def wording(task, question):
    """What is asked, whoever asks it of whichever order."""
    return question["text"].replace(task.data["customer"], "{name}").replace(question["order"], "{id}")


def test_facts_cannot_be_told_from_the_question():
    found = {
        (question["field"], task.data["orders"][question["order"]][question["field"]])
        for task in OrderDeskEnvironment().tasks("train")
        for question in task.data["questions"]
        if not set(task.data["orders"][question["order"]].values()) & set(question["text"].split())
    }
    assert len(found) == 8 + 5 + 7 + 4


async def test_demonstrations_succeed_at_their_own_tasks():
    environment = OrderDeskEnvironment(
        missing_rate=0.3, withhold_id_rate=0.3, questions=3, train_tasks=100, demonstrations="whole"
    )
    tasks = environment.tasks("train")
    for task, dialogue in zip(tasks, environment.demonstrations("train"), strict=True):

        async def replay(task=task, dialogue=dialogue):
            desk = OrderDeskEnvironment()
            said = (await desk.reset(task, seed=0)).messages
            for message in dialogue:
                if message["role"] == "user":
                    assert message["content"] == said[-1]["content"]
                for call in message.get("tool_calls", []):
                    await desk.lookup_order(**json.loads(call["function"]["arguments"]))
                if message["role"] == "assistant" and message["content"]:
                    result = await desk.step(message)
                    said = result.messages
            return result

        result = await replay()
        assert result.done
        assert result.outcome["success"] is True, dialogue


def test_demonstrations_of_the_form_show_one_kind_of_question_and_none_of_the_tasks():
    environment = OrderDeskEnvironment()
    dialogues = environment.demonstrations("train")
    assert {len(dialogue) for dialogue in dialogues} == {4}, "a question, a call, its result, an answer"
    values = [stated(dialogue[-1]["content"], field) for dialogue in dialogues for field in FACTS]
    assert {value for found in values for value in found} == set(FIELDS["status"])
    asked = {task.data["questions"][0]["text"] for task in environment.tasks("train")}
    assert not asked & {dialogue[0]["content"] for dialogue in dialogues}


async def test_the_served_agent_looks_up_the_orders_of_the_held_out_tasks():
    environment = OrderDeskEnvironment()
    [tool] = environment.serving_tools()
    [own] = environment.tools()
    assert as_tool(tool).args == as_tool(own).args
    assert as_tool(tool).description == as_tool(own).description
    order, facts = next(iter(environment.tasks("held_out")[0].data["orders"].items()))
    assert json.loads(await tool(order)) == facts
    assert json.loads(await tool("X000")) == {"error": "order not found"}


def test_phrases_mean_what_they_are_for():
    assert all(says_not_found(text) for text in NOT_FOUND)
    for field, texts in ANSWERS.items():
        value = FACTS[field]
        assert all(stated(text.format(id="K482", value=value), field) == {value} for text in texts)
        assert not any(says_not_found(text) for text in texts)
    assert not any(says_not_found(text) for text in ASKS_ID)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": ("colour",)}, "fields: there is no colour; choose from: item, status, eta, carrier"),
        ({"fields": ()}, "fields: it is empty"),
        ({"missing_rate": 1.5}, "missing_rate is 1.5; it is a share, from 0 to 1"),
        ({"questions": 0}, "questions is 0; it must be from 1 to 8"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OrderDeskEnvironment(**options)


async def test_a_step_before_reset_is_refused():
    with pytest.raises(RuntimeError, match="reset comes before step and tools"):
        await OrderDeskEnvironment().step(assistant("Hi"))
