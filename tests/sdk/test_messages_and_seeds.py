from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_sdk import assistant, derive_seed, system, tool_call, tool_result, user
from grpo_sdk.errors import GrpoError, MissingExtraError, did_you_mean
from grpo_sdk.messages import as_messages, image_part, on_the_wire, text_part
from grpo_sdk.seeds import global_generators_kept
from grpo_sdk.strategy import Strategy


def test_messages_have_the_openai_form():
    call = tool_call("add", '{"a": 1}', "call_1")
    assert call == {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    assert system("s") == {"role": "system", "content": "s"}
    assert user("u") == {"role": "user", "content": "u"}
    assert assistant("", [call]) == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert tool_result(call, "2") == {
        "role": "tool",
        "content": "2",
        "name": "add",
        "tool_call_id": "call_1",
    }


def test_a_message_without_calls_has_no_key_for_them():
    assert "tool_calls" not in assistant("Hi", [])


@given(st.lists(st.one_of(st.integers(), st.text()), max_size=4))
def test_seeds_fit_in_31_bits(parts):
    assert 0 <= derive_seed(*parts) < 2**31


def test_seeds_tell_their_parts_apart():
    assert len({derive_seed(1, 23), derive_seed(12, 3), derive_seed(123), derive_seed(1, 2, 3)}) == 4


def test_seeds_are_the_same_in_another_process():
    code = "from grpo_sdk import derive_seed; print(derive_seed('run', 3, 'task'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == derive_seed("run", 3, "task")


def test_a_missing_extra_says_how_to_install_it():
    problem = MissingExtraError("backend vllm", "vllm", "vllm")
    assert isinstance(problem, GrpoError)
    assert str(problem) == (
        "backend vllm needs the package vllm, which is not installed. "
        "Run: pip install 'grpo-agent-framework[vllm]'"
    )


def test_near_misses_get_a_suggestion():
    assert did_you_mean("empaty", ["length", "empathy"]) == ' Did you mean "empathy"?'
    assert did_you_mean("xyz", ["length", "empathy"]) == ""


def test_a_strategy_joins_its_prompt_and_style():
    assert Strategy("s", "Be helpful.", "Be brief.").instructions == "Be helpful.\nBe brief."
    assert Strategy("s").instructions == ""


def test_messages_of_others_are_copied_and_filled_in():
    given = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": []}]
    assert as_messages(given) == [user("Hi"), {"role": "assistant", "content": "", "tool_calls": []}]
    assert given[1]["content"] is None


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([user("Hi"), "Hello"], "message 1 is 'Hello', not a dict with role and content"),
        ([{"content": "Hi"}], "message 0 has the role None; roles are system, user, assistant and tool"),
        ([{"role": "bot", "content": "Hi"}], "message 0 has the role 'bot'"),
        ([{"role": "user"}], "message 0 has the content None, which is no text"),
        (user("Hi"), "messages are a list of dicts with role and content, not"),
        ("Hi", "messages are a list of dicts"),
    ],
)
def test_what_is_no_message_is_named(messages, complaint):
    with pytest.raises(ValueError, match=complaint):
        as_messages(messages)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("", ""),
        ("naïve 🙂", "naïve 🙂"),
        ("\ufeffa", "\ufeffa"),
        (os.fsdecode(b"\xff.txt"), "\ufffd.txt"),
        ("a\ud83db", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),
    ],
)
def test_what_is_no_character_is_replaced(text, whole):
    call = tool_call("f", "{}", "c")
    made = [system(text), user(text), assistant(text), tool_result(call, text)]
    made += as_messages([{"role": "user", "content": text}])
    assert {message["content"] for message in made} == {whole}


@given(st.text(alphabet=st.characters(), max_size=9))
def test_any_text_of_a_message_can_be_encoded(text):
    user(text)["content"].encode()


def test_a_message_with_an_image_has_its_text_as_content_and_goes_out_in_parts():
    shown = [text_part("What is "), image_part("https://example.org/cat.png"), text_part("this?")]
    message = user(shown)
    assert message == {"role": "user", "content": "What is this?", "parts": shown}
    assert on_the_wire([message]) == [{"role": "user", "content": shown}]
    assert as_messages([message]) == [message]
    assert as_messages(on_the_wire([message])) == [message]


def test_parts_that_are_texts_are_a_text():
    assert user([text_part("a"), text_part("b")]) == user("ab")


@pytest.mark.parametrize(
    "part",
    ["text", {"type": "audio"}, {"type": "text"}, {"type": "image_url", "image_url": {}}, {"type": "file"}],
)
def test_a_part_that_cannot_be_read_is_named(part):
    with pytest.raises(ValueError, match=r"message 0 has a part of the type .* that cannot be read"):
        user([part])


def drawn_after(seed, work):
    """What the caller who has seeded the generators draws after ``work``."""
    import numpy as np

    torch = pytest.importorskip("torch")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    with global_generators_kept():
        work()
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_what_seeds_the_global_generators_does_not_decide_what_the_caller_draws():
    first, again = drawn_after(1, lambda: None), drawn_after(1, random.random)
    assert first == again
    assert all(a != b for a, b in zip(first, drawn_after(2, lambda: None), strict=True))


def test_a_number_that_another_thread_drew_meanwhile_is_not_drawn_again():
    meanwhile = []
    drawn = drawn_after(1, lambda: meanwhile.append(random.random()))
    assert drawn[0] != meanwhile[0]
