"""``/v1/responses`` as OpenAI's own client speaks it."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import openai
import pytest

from grpo_sdk.backend import ChatReply
from grpo_sdk.errors import GrpoError
from grpo_sdk.messages import assistant, tool_call
from grpo_sdk.testing import ScriptedBackend

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a town",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    "strict": True,
}
TOWNS = ("Bonn", "Kiel")


def travel(messages, tools):
    """Asks for the weather of one town after the other, or of both, then says all that it heard."""
    told = [message["content"] for message in messages if message["role"] == "tool"]
    wanted = TOWNS if messages[-1]["content"] == "both" else TOWNS[len(told) :][:1]
    if tools and wanted:
        calls = [tool_call("weather", json.dumps({"town": town}), "") for town in wanted]
        return assistant("Let me see.", calls)
    return json.dumps(messages)


class Traveller(ScriptedBackend):
    def __init__(self, model):
        super().__init__(model, script=travel)

    async def chat(self, messages, sampling, tools=()):
        if messages[-1]["content"] == "cut":
            return ChatReply(assistant("Once upon"), "length")
        return await super().chat(messages, sampling, tools)

    async def stream(self, messages, sampling, tools=()):
        async for item in super().stream(messages, sampling, tools):
            yield item
            if messages[-1]["content"] == "break":
                raise GrpoError("10.0.0.7 broke")


@pytest.fixture
def serve(served):
    """``async with serve() as client``: OpenAI's client of a served agent that travels."""

    @asynccontextmanager
    async def start():
        agent = (
            "name: desk\nmodel: {name: tiny}\nbackend: traveller\nenvironment: support_desk\n"
            "agent: {tools: [calculator], system_prompt: Be kind.}\nrewards: [length]\n"
        )
        async with served(agent, traveller=Traveller) as http:
            yield openai.AsyncOpenAI(
                base_url="http://127.0.0.1/v1", api_key="none", http_client=http, max_retries=0
            )

    return start


async def ask(serve, *inputs, **fields):
    """One response, on the bare model; where it streams, its events."""

    async with serve() as client:
        asked = inputs[0] if isinstance(inputs[0], str) else list(inputs)
        got = await client.responses.create(**{"model": "tiny", "input": asked, **fields})
        return [event async for event in got] if fields.get("stream") else got


def heard(response):
    return json.loads(response.output_text)


async def test_items_are_the_messages_of_the_conversation(serve):
    response = await ask(
        serve,
        {"role": "developer", "content": "Speak French."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "A moment.", "annotations": []}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "id": "fc_2", "call_id": "c2", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "sun"}]},
        instructions="Be brief.",
    )
    calls = [tool_call("weather", "{}", id) for id in ("c1", "c2")]
    assert heard(response) == [
        {"role": "system", "content": "Be brief.\nSpeak French."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "A moment.", "tool_calls": calls},
        {"role": "tool", "content": "rain", "name": "weather", "tool_call_id": "c1"},
        {"role": "tool", "content": "sun", "name": "weather", "tool_call_id": "c2"},
    ]
    assert response.status == "completed"
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


async def test_the_agents_name_brings_its_instructions(serve):
    assert heard(await ask(serve, "Hi", model="desk", tool_choice="none"))[0]["content"] == "Be kind."


async def test_a_cut_answer_is_incomplete(serve):
    response = await ask(serve, "cut")
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_loop_of_three_turns_ends_with_an_answer(serve, stream):
    async def scenario():
        async with serve() as client:
            items = [{"role": "user", "content": "Hi"}]
            for _ in range(3):
                options = {"model": "desk", "input": items, "tools": [WEATHER]}
                if stream:
                    async with client.responses.stream(**options) as events:
                        async for _ in events:
                            pass
                        response = await events.get_final_response()
                else:
                    response = await client.responses.create(**options)
                items += [item.model_dump(exclude_none=True) for item in response.output]
                for item in response.output:
                    if item.type == "function_call":
                        town = json.loads(item.arguments)["town"]
                        items.append(
                            {
                                "type": "function_call_output",
                                "call_id": item.call_id,
                                "output": f"rain in {town}",
                            }
                        )
            return response

    said = heard(await scenario())
    assert [message["role"] for message in said] == ["system", "user", *["assistant", "tool"] * 2]
    assert [message["content"] for message in said if message["role"] == "tool"] == [
        "rain in Bonn",
        "rain in Kiel",
    ]


async def test_a_streamed_answer_is_told_in_the_protocols_events(serve):
    events = await ask(serve, "both", tools=[WEATHER], stream=True)
    kinds = [event.type.removeprefix("response.") for event in events]
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done"]
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *["output_text.delta"] * 3,
        *("output_text.done", "content_part.done", "output_item.done"),
        *[*call, "output_item.done"] * 2,
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type.endswith("text.delta")) == "Let me see."
    assert [json.loads(item.arguments)["town"] for item in events[-1].response.output[1:]] == list(TOWNS)


async def test_a_client_that_takes_one_call_at_a_time_gets_one(serve):
    response = await ask(serve, "both", tools=[WEATHER], parallel_tool_calls=False)
    assert [item.type for item in response.output] == ["message", "function_call"]


async def test_a_stream_that_breaks_says_so_and_not_where(serve):
    async with serve() as client:
        body = {"model": "tiny", "input": "break", "stream": True}
        text = (await client._client.post("/v1/responses", json=body)).text
    last = json.loads(text.strip().split("data: ")[-1])
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert "event: error" in text
    assert "10.0.0.7" not in text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"background": True}, "background: give one of: false"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_its_name(serve, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(serve, "Hi", **fields)
    assert param in caught.value.body["message"]


async def test_a_model_that_there_is_not_is_not_found_before_a_stream_begins(serve):
    with pytest.raises(openai.NotFoundError):
        await ask(serve, "Hi", model="nobody", stream=True)
