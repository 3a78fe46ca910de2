"""What a row may be, and what is said of one that is none."""

from __future__ import annotations

import pytest

from grpo_host.dialogues import DialogueDatabase
from grpo_host.dialogues.record import dialogue_of
from grpo_sdk import assistant, system, user
from grpo_sdk.errors import ConfigError


def test_a_conversation_gives_question_and_answer():
    said = [system("Be kind."), user("Hi"), assistant("Hello"), user("Bye"), assistant("Goodbye")]
    dialogue = dialogue_of({"messages": said}, "here", default_id="d")
    assert (dialogue.content, dialogue.expected_response) == ("Hi", "Goodbye")
    assert dialogue.conversation == said


def test_what_else_a_row_says_is_metadata():
    row = {"content": "Hi", "metadata": {"a": 1}, "priority": "high"}
    assert dialogue_of(row, "here", default_id="d").metadata == {"a": 1, "priority": "high"}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("Hi", "here: a dialogue is a mapping with content and expected_response, not 'Hi'"),
        ({}, 'here: the dialogue has no "content", what the user says.'),
        ({"contents": "Hi"}, 'It has "contents": is that meant?'),
        (
            {"content": "Hi", "expected_respone": "x"},
            'unknown key "expected_respone". Did you mean "expected_response"?',
        ),
        ({"content": 7}, 'here: "content" is 7; it must be a text'),
        ({"content": "Hi", "id": 1.5}, 'here: "id" is 1.5; it must be a text or a whole number'),
        ({"content": "Hi", "id": ""}, "here: \"id\" is ''"),
        ({"content": "Hi \ud83d"}, 'here: "content" holds half a surrogate pair'),
        ({"content": "Hi", "metadata": "x"}, "here: \"metadata\" is 'x'; it must be a mapping"),
        ({"content": "Hi", "x": object()}, "here: what JSON cannot say is in the metadata"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "here: \"messages\": message 0 has the role 'bot'"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(row, complaint):
    with pytest.raises(ConfigError) as caught:
        dialogue_of(row, "here", default_id="d")
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("here: ")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{oops", "this line is no JSON"),
        (b'["a"]', "a dialogue is a mapping"),
        (b"\xff\xfe", "this line is not UTF-8 text"),
        (b'{"id": "a", "content": "twice"}', 'there is already a dialogue with the id "a"'),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, complaint):
    path = tmp_path / "dialogues.jsonl"
    path.write_bytes(b'{"id": "a", "content": "Hi"}\n\n' + line + b"\n")
    with pytest.raises(ConfigError) as caught:
        DialogueDatabase(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert complaint in str(caught.value)
