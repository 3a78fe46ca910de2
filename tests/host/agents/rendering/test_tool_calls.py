from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_host.agents.rendering.signatures import describe_tools
from grpo_host.agents.rendering.tool_calls import (
    as_plain_messages,
    as_written,
    assistant_text,
    parse_calls,
    render_call,
)
from grpo_sdk import assistant, system, tool_call, tool_result, user
from grpo_sdk.tools import MALFORMED_CALL, as_tool, tool_schema

CALL = '<tool_call>{"name": "lookup", "arguments": {"order": "A12"}}</tool_call>'


def functions(text):
    said, calls = parse_calls(text)
    return said, [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


def test_calls_and_the_text_around_them_are_told_apart():
    assert functions(f" One moment. {CALL}\n") == ("One moment.", [("lookup", '{"order": "A12"}')])
    assert functions("  Hello.  ") == ("Hello.", [])


def test_several_calls_are_told_apart():
    said, calls = parse_calls(f"{CALL} and {CALL}")
    assert said == "and"
    assert len(calls) == 2


def test_a_call_without_arguments_has_none():
    assert functions('<tool_call>{"name": "now"}</tool_call>') == ("", [("now", "{}")])


def test_a_call_whose_end_was_cut_off_is_read_as_far_as_it_goes():
    assert functions('<tool_call>{"name": "now", "arguments": {}}') == ("", [("now", "{}")])


@pytest.mark.parametrize(
    "raw",
    [
        "", "lookup", "null", "[]", "7", '"lookup"', '{"arguments": {}}', '{"name": 7}', '{"name": "a"',
        '{"name": "a", "arguments": "b"}', '{"name": "a", "arguments": []}', "[" * 5000,
        '{"name": "a", "arguments": {"x": NaN}}', '{"name": "a", "arguments": {"x": [-Infinity]}}',
        '{"name": "a", "arguments": {"x": 1e999}}', '{"name": "a", "arguments": "[]"}',
        '{"name": "a"}}', '{"name": "a"} {"name": "b"}',
        "9" * 5000, r'{"name": "a", "arguments": {"x": "\ud800"}}', r'{"name": "\ud800"}',
    ],
)  # fmt: skip
def test_a_malformed_call_is_kept_as_it_was_written(raw):
    assert functions(f"Hm. <tool_call>{raw}</tool_call>") == (
        "Hm.",
        [(MALFORMED_CALL, f"<tool_call>{raw}</tool_call>")],
    )


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ('"parameters": {"order": "A12"}', '{"order": "A12"}'),
        (r'"arguments": "{\"order\": \"A12\"}"', '{"order": "A12"}'),
        ('"arguments": null', "{}"),
        ('"arguments": ""', "{}"),
        ('"arguments": "null"', "{}"),
    ],
)
def test_arguments_may_be_written_as_other_models_do(arguments, read):
    assert functions(f'<tool_call>{{"name": "lookup", {arguments}}}</tool_call>') == ("", [("lookup", read)])


QUOTING = '{"text": "write </tool_call> or <tool_call>"}'


def test_a_tag_in_an_argument_is_part_of_it():
    call = f'<tool_call>{{"name": "save", "arguments": {QUOTING}}}</tool_call>'
    assert functions(f"First. {call} Then.{call}") == ("First.  Then.", [("save", QUOTING)] * 2)


def test_a_call_with_a_tag_in_it_that_was_cut_off_shows_nothing():
    said, [(name, raw)] = functions('<tool_call>{"name": "save", "arguments": {"text": "</tool_call> and')
    assert (said, name) == ("", MALFORMED_CALL)
    assert raw.endswith("</tool_call> and")


def test_a_call_whose_closing_tag_was_forgotten_ends_before_the_next():
    assert functions('<tool_call>{"name": "a"}<tool_call>{"name": "b"}</tool_c') == (
        "",
        [("a", "{}"), ("b", "{}")],
    )


def test_what_is_no_json_ends_with_the_next_closing_tag():
    said, calls = functions('<tool_call>{"name": "</tool_call>", oops}</tool_call>Sorry.')
    written = '<tool_call>{"name": "</tool_call>", oops}</tool_call>'
    assert (said, calls) == ("Sorry.", [(MALFORMED_CALL, written)])


@given(st.text(alphabet='<>/_tolca{}[]":\\un0d8 ', max_size=60))
def test_whatever_a_model_writes_can_be_parsed(text):
    said, calls = parse_calls(f"{text}<tool_call>{text}")
    assert "<tool_call>" not in said
    assert calls


@given(
    st.text(min_size=1),
    st.dictionaries(st.text(), st.text() | st.integers() | st.booleans() | st.none() | st.lists(st.text())),
)
def test_a_rendered_call_is_parsed_back(name, arguments):
    text = json.dumps(arguments, ensure_ascii=False)
    written = render_call(tool_call(name, text, "call_0"))
    [call] = parse_calls(written)[1]
    assert call["function"]["name"] == name
    assert json.loads(call["function"]["arguments"]) == arguments


def search(query: str, limit: int = 3) -> str:
    """Search the manual."""
    return query * limit


def test_messages_become_system_user_and_assistant_alone():
    call = tool_call("lookup", '{"order": "A12"}', "call_0")
    plain = as_plain_messages(
        [
            user("Where?"),
            assistant("Wait.", [call]),
            tool_result(call, "a"),
            tool_result(call, "b"),
            user("So?"),
        ],
        [],
    )
    assert plain == [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": f"Wait.\n{CALL}"},
        {"role": "user", "content": "<tool_response>a</tool_response>\n<tool_response>b</tool_response>"},
        {"role": "user", "content": "So?"},
    ]


def test_tools_are_described_behind_the_system_message():
    tools = [tool_schema(as_tool(search))]
    behind = as_plain_messages([system("Be kind."), user("Hi")], tools)
    alone = as_plain_messages([user("Hi")], tools)
    assert behind[0]["content"] == f"Be kind.\n{describe_tools(tools)}"
    assert alone[0] == {"role": "system", "content": describe_tools(tools)}
    assert as_plain_messages([], tools)[0]["role"] == "system"


def test_rendering_changes_no_message():
    messages = [system("Be kind."), user("Hi")]
    as_plain_messages(messages, [tool_schema(as_tool(search))])
    assert messages == [system("Be kind."), user("Hi")]


def test_an_assistant_says_its_words_before_its_calls():
    assert assistant_text(assistant("", [])) == ""
    assert assistant_text(assistant("Hi")) == "Hi"
    assert assistant_text(assistant("", [tool_call("now", "", "c")])) == (
        '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    )


def test_a_malformed_call_is_shown_to_the_model_as_it_was_written():
    written = "<tool_call>{lookup</tool_call>"
    [call] = parse_calls(written)[1]
    assert assistant_text(assistant("Hm.", [call])) == f"Hm.\n{written}"


@pytest.mark.parametrize("name", [MALFORMED_CALL, "", "x" * 201])
def test_what_is_no_call_is_text_for_others(name):
    good, bad = tool_call("lookup", "{}", "a"), tool_call(name, "<tool_call>{", "b")
    said = as_written(assistant("Hm.", [good, bad]))
    assert said == assistant(f"Hm.\n{render_call(bad)}", [good])
    assert as_written(assistant("", [bad])) == assistant(render_call(bad))


def test_the_answer_to_what_is_no_call_has_no_name_for_others():
    bad = tool_call(MALFORMED_CALL, "{", "b")
    assert "name" not in as_written(tool_result(bad, "Error"))
    for message in (tool_result(tool_call("lookup", "{}", "a"), "x"), user("Hi"), assistant("Hi")):
        assert as_written(message) == message


def test_of_several_malformed_calls_each_is_kept_as_it_was_written():
    calls = [CALL, "<tool_call></tool_call>", "<tool_call>[]\n</tool_call>", "<tool_call>{"]
    _, found = functions(" ".join(calls))
    assert found[1:] == [(MALFORMED_CALL, call) for call in calls[1:]]
