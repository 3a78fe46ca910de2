from __future__ import annotations

import json

import pytest
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from grpo_sdk import ConfigError, assistant, tool_call
from grpo_sdk.langchain_messages import from_messages, to_ai_message, to_messages
from grpo_sdk.messages import image_part


def test_each_kind_of_message_has_its_role_and_its_text():
    heard = to_messages(
        [
            SystemMessage("Be brief."),
            ChatMessage(role="developer", content="Really."),
            HumanMessage("Hello", name="Ann"),
            AIMessage("Hi"),
            ChatMessage(role="user", content="Bye"),
        ]
    )

    assert heard == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Really."},
        {"role": "user", "content": "Hello", "name": "Ann"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Bye"},
    ]


@pytest.mark.parametrize("arguments", ['{"city": "Köln"}', '{ "city":"K\\u00f6ln" }', "", "{}"])
def test_what_the_model_said_comes_back_word_for_word(arguments):
    said = assistant("Let me see.", [tool_call("weather", arguments, "a1"), tool_call("now", "{}", "a2")])

    assert to_messages([to_ai_message(said)]) == [said]


def test_arguments_that_the_app_has_changed_are_the_apps():
    message = to_ai_message(assistant("", [tool_call("weather", '{"city":"Rome"}', "a1")]))
    message.tool_calls[0]["args"]["city"] = "Oslo"

    (told,) = to_messages([message])

    assert json.loads(told["tool_calls"][0]["function"]["arguments"]) == {"city": "Oslo"}


@pytest.mark.parametrize("arguments", ['{"city": "Ro', "[1]"])
def test_a_call_whose_arguments_are_no_object_is_an_invalid_one_and_comes_back_as_it_was(arguments):
    said = assistant("", [tool_call("weather", arguments, "a1")])

    message = to_ai_message(said)

    assert not message.tool_calls
    assert message.invalid_tool_calls[0]["args"] == arguments
    assert "the arguments of weather cannot be read" in message.invalid_tool_calls[0]["error"]
    assert to_messages([message]) == [said]


def test_a_tools_answer_is_named_after_the_call_that_it_answers():
    asked = AIMessage("", tool_calls=[{"name": "weather", "args": {}, "id": "a1"}])
    answer = ToolMessage([{"type": "text", "text": "wet"}], tool_call_id="a1", artifact={"mm": 3})

    assert to_messages([asked, answer])[1] == {
        "role": "tool",
        "content": "wet",
        "name": "weather",
        "tool_call_id": "a1",
    }


def test_parts_of_a_content_are_its_text():
    parts = [
        "a",
        {"type": "text", "text": "b"},
        {"type": "text-plain", "text": "c", "mime_type": "text/plain"},
    ]
    asked = AIMessage(
        [
            {"type": "reasoning", "reasoning": "hm"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "a1", "name": "weather", "input": {}},
        ],
        tool_calls=[{"name": "weather", "args": {}, "id": "a1"}],
    )
    answer = ToolMessage([{"type": "json", "json": {"mm": 3}}], tool_call_id="a1")

    heard = to_messages([HumanMessage(parts), asked, answer])

    assert [message["content"] for message in heard] == ["abc", "I look.", '{"mm": 3}']


@pytest.mark.parametrize(
    "part",
    [
        {"type": "audio", "base64": "", "mime_type": "audio/wav"},
        {"type": "reasoning", "reasoning": "only an assistant's is left out"},
    ],
    ids=lambda part: part["type"],
)
def test_what_is_no_text_is_refused_by_its_place_and_type(part):
    with pytest.raises(ConfigError, match=rf'message 1 \(human\) has content of the type "{part["type"]}"'):
        to_messages([SystemMessage("x"), HumanMessage([part])])


@pytest.mark.parametrize(
    ("part", "read"),
    [
        ({"type": "image", "url": "http://x/y.png"}, image_part("http://x/y.png")),
        ({"type": "image_url", "image_url": "http://x/y.png"}, image_part("http://x/y.png")),
        ({"type": "image_url", "image_url": {"url": "http://x/y.png"}}, image_part("http://x/y.png")),
        (
            {"type": "image", "base64": "R0k=", "mime_type": "image/gif"},
            image_part("data:image/gif;base64,R0k="),
        ),
        ({"type": "file", "file": {"file_id": "f1"}}, {"type": "file", "file": {"file_id": "f1"}}),
        ({"type": "file", "file_id": "f1"}, {"type": "file", "file": {"file_id": "f1"}}),
        (
            {"type": "file", "base64": "JVBE", "mime_type": "application/pdf"},
            {
                "type": "file",
                "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "file"},
            },
        ),
    ],
)
def test_images_and_files_of_a_person_are_parts_and_go_back_as_such(part, read):
    [message] = to_messages([HumanMessage(["What is this?", part], name="Ada")])
    assert message["content"] == "What is this?"
    assert message["parts"] == [{"type": "text", "text": "What is this?"}, read]
    assert from_messages([message]) == [HumanMessage(message["parts"], name="Ada")]


@pytest.mark.parametrize("kind", [SystemMessage, AIMessage])
def test_an_image_that_no_person_shows_is_refused(kind):
    with pytest.raises(ConfigError, match='content of the type "image"'):
        to_messages([kind([{"type": "image", "url": "http://x/y.png"}])])


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (FunctionMessage("1", name="f"), "FunctionMessage"),
        (ChatMessage(role="critic", content="no"), 'ChatMessage with the role "critic"'),
    ],
)
def test_a_message_that_no_model_reads_is_refused(message, named):
    with pytest.raises(ConfigError, match=f"is a {named}, which no model here reads"):
        to_messages([message])
