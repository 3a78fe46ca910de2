"""``/v1`` takes conversations as other software sends them back."""

from __future__ import annotations

import json
from functools import partial

import openai
import pytest

from grpo_sdk.messages import assistant, tool_call
from grpo_sdk.testing import ScriptedBackend

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
TOWNS = ("Bonn", "Kiel")


def travel(messages, tools):
    """Asks for the weather of one town after the other, then says all that it was told."""
    told = [message["content"] for message in messages if message["role"] == "tool"]
    if messages[-1]["content"] == "both" and tools:
        return assistant("", [tool_call("weather", json.dumps({"town": town}), "") for town in TOWNS])
    if tools and len(told) < len(TOWNS):
        return assistant("", [tool_call("weather", json.dumps({"town": TOWNS[len(told)]}), "")])
    return json.dumps([{k: v for k, v in m.items() if k != "tool_calls"} for m in messages])


class Traveller(ScriptedBackend):
    def __init__(self, model):
        super().__init__(model, script=travel)


@pytest.fixture
def serve(served):
    """``async with serve() as http``: a client of a served agent that travels."""
    agent = (
        "name: desk\nmodel: {name: acme/tiny}\nbackend: traveller\nenvironment: support_desk\n"
        "rewards: [length]\n"
    )
    return lambda: served(agent, traveller=Traveller)


async def ask(serve, messages, **fields):
    """The response to one request, on the bare model."""

    async with serve() as http:
        body = {"model": "acme/tiny", "messages": messages, **fields}
        return await http.post("/v1/chat/completions", json=body)


def heard(response):
    """The messages that reached the model."""
    assert response.status_code == 200, response.text
    return json.loads(response.json()["choices"][0]["message"]["content"])


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
NULLS = {
    "annotations": [],
    "audio": None,
    "function_call": None,
    "refusal": None,
    "reasoning_content": "Hm.",
    "provider_specific_fields": {"citations": None},
    "tool_calls": None,
    "name": None,
    "of_tomorrow": {"a": 1},
}


async def test_unknown_and_null_fields_of_history_are_dropped(serve):
    part = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    history = [
        {"role": "system", "content": [part], "cache_control": {"type": "ephemeral"}},
        {"role": "user", "content": [part], "name": None, "id": "m1"},
        {"role": "assistant", "content": "Hello.", **NULLS},
        {"role": "user", "content": "Bye"},
    ]
    assert heard(await ask(serve, history)) == [
        {"role": "system", "content": "Hi"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
    ]


async def test_calls_and_their_results_are_read_in_the_forms_of_other_clients(serve):
    spoken = {**CALL, "type": None, "index": 0, "function": {"name": "weather", "arguments": {"town": "Ulm"}}}
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, **NULLS, "tool_calls": [spoken]},
        {"role": "tool", "content": None, "tool_call_id": "c1", "name": None, "is_error": False},
    ]
    assert heard(await ask(serve, history))[-1] == {
        "role": "tool",
        "content": "",
        "name": "weather",
        "tool_call_id": "c1",
    }


async def test_numbers_of_any_size_are_arguments(serve):
    spoken = {**CALL, "function": {"name": "weather", "arguments": {"town": 2**70}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"enum": [2**70]}}}
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [spoken]},
        {"role": "tool", "content": "Rain", "tool_call_id": "c1"},
    ]
    assert (await ask(serve, history, tools=[tool])).status_code == 200


async def test_what_the_assistant_refused_is_what_it_said(serve):
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "refusal": "I will not."},
        {"role": "user", "content": "Why?"},
    ]
    assert heard(await ask(serve, history))[1] == {"role": "assistant", "content": "I will not."}


@pytest.mark.parametrize("nothing", [None, "", [], {}])
async def test_fields_with_nothing_in_them_are_not_there(serve, nothing):
    fields = dict.fromkeys(("logit_bias", "functions", "reasoning_effort", "web_search_options"), nothing)
    assert heard(await ask(serve, [{"role": "user", "content": "Hi"}], **fields))


async def test_a_tools_nulls_and_notes_are_dropped(serve):
    function = {"name": "weather", "description": None, "parameters": None, "strict": True, "examples": []}
    tool = {"type": "function", "function": function, "cache_control": {"type": "ephemeral"}}
    response = await ask(serve, [{"role": "user", "content": "Hi"}], tools=[tool])
    assert response.json()["choices"][0]["finish_reason"] == "tool_calls", response.text


@pytest.mark.parametrize(
    ("message", "fields", "param", "said"),
    [
        ({"content": 3}, {}, "messages[0].content", "give a text, or give a list"),
        (
            {"content": [{"type": "image_url", "image_url": {}}]},
            {},
            "messages[0].content[0].image_url.url",
            "",
        ),
        (
            {"content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]},
            {},
            None,
            "messages[0] has a part of the type image_url, and",
        ),
        (
            {"content": [{"type": "file", "file": {}}]},
            {},
            "messages[0].content[0].file",
            "file_id or file_data",
        ),
        ({"content": [{"type": "input_audio"}]}, {}, "messages[0].content[0].type", "'text'"),
        ({"role": "robot"}, {}, "messages[0].role", "'user'"),
        ({"role": None}, {}, "messages[0].role", "'user'"),
        ({"role": "assistant", "function_call": {"name": "f"}}, {}, "messages[0].function_call", "null"),
        ({"role": "assistant", "audio": {"id": "a"}}, {}, "messages[0].audio", "null"),
        ({}, {"logit_bias": {"50": 1}}, "logit_bias", "no such field"),
        ({}, {"reasoning_effort": "high"}, "reasoning_effort", "no such field"),
        ({}, {"stop": 3}, "stop", "give a text, or give a list"),
        ({}, {"tools": [{"type": "web_search"}]}, "tools[0].type", "'function'"),
    ],
)
async def test_what_changes_the_answer_is_refused_by_the_clients_name_for_it(
    serve, message, fields, param, said
):
    response = await ask(serve, [{"role": "user", "content": "Hi", **message}], **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert said in error["message"]
    assert not {"constrained", "str]", "list[", "Input"} & set(error["message"].split())


async def test_a_users_name_reaches_a_server_behind(serve):
    assert heard(await ask(serve, [{"role": "user", "content": "Hi", "name": "ann"}]))[0]["name"] == "ann"


@pytest.mark.parametrize(("parallel", "calls"), [(True, 2), (None, 2), (False, 1)])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_takes_one_call_at_a_time_gets_one(serve, parallel, calls, stream):
    messages = [{"role": "user", "content": "both"}]
    response = await ask(serve, messages, tools=[WEATHER], parallel_tool_calls=parallel, stream=stream)
    assert response.text.count("Bonn") == 1
    assert response.text.count("Kiel") == calls - 1


async def test_one_model_is_told_by_its_name(serve):
    async with serve() as http:
        client = openai.AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=http)
        with pytest.raises(openai.NotFoundError, match="Did you mean"):
            await client.models.retrieve("acme/tin")
        listed = [each async for each in client.models.list()]
        told = [await client.models.retrieve(each.id) for each in listed]
    assert [each.id for each in told] == ["desk", "acme/tiny"]
    assert told == listed


# Tool loops as the libraries that are installed here write them. `python -m bench clients` has more, and real ones.


async def tool_loop(create):
    """What the model says after two calls, with the client's own messages sent back as they are."""
    messages = [{"role": "user", "content": "Hi"}]
    for _ in range(3):
        message = (await create(messages=messages, tools=[WEATHER])).choices[0].message
        messages.append(message.model_dump())
        for call in message.tool_calls or ():
            town = json.loads(call.function.arguments)["town"]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": f"rain in {town}"})
    return message.content


async def test_the_openai_clients_own_messages_go_back_whole(serve):
    async with serve() as http:
        client = openai.AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=http)
        said = await tool_loop(partial(client.chat.completions.create, model="desk"))
    assert all(f"rain in {town}" in said for town in TOWNS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*ReadOnly.*qualifier:UserWarning")
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
async def test_litellms_own_messages_go_back_whole(serve, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else importing it downloads a price list
    litellm = pytest.importorskip("litellm")

    async with serve() as http:
        client = openai.AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=http)
        said = await tool_loop(partial(litellm.acompletion, "openai/desk", client=client))
    assert all(f"rain in {town}" in said for town in TOWNS)


@pytest.mark.parametrize("responses", [False, True])
async def test_langchains_own_messages_go_back_whole(serve, responses):
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    async with serve() as http:
        model = ChatOpenAI(
            model="desk",
            base_url="http://127.0.0.1/v1",
            api_key="none",
            http_async_client=http,
            use_responses_api=responses,
        ).bind_tools([WEATHER])
        messages = [HumanMessage("Hi")]
        for _ in range(3):
            answer = await model.ainvoke(messages)
            messages.append(answer)
            for call in answer.tool_calls:
                messages.append(ToolMessage(f"rain in {call['args']['town']}", tool_call_id=call["id"]))
        said = answer.text
    assert all(f"rain in {town}" in said for town in TOWNS)
