from __future__ import annotations

import dataclasses
import re
from dataclasses import replace

import pytest

from grpo_sdk import Task, ToolRun, Trajectory, Turn, assistant, system, tool_call, tool_result, user
from grpo_sdk.testing import make_trajectory
from grpo_sdk.trajectory import Ledger, MessageSpan, RewardRecord, TokenSequence

CALL = tool_call("lookup", '{"id": "7"}', "call_1")


def full() -> Trajectory:
    spans = [MessageSpan(0, 2, "user"), MessageSpan(2, 4, "assistant")]
    sequence = TokenSequence([5, 6, 7, 8], [0, 0, 1, 1], [0.0, 0.0, -0.5, -1.25], [-1, -1, 3, 3], spans)
    return Trajectory(
        id="t-0",
        environment="order_desk",
        task=Task("t", {"orders": {"K4": {"eta": "Friday"}}, "n": [1, 2.5, None, True]}),
        status="completed",
        stop_reason="done",
        messages=[
            system("Be kind."),
            user("Where is it? 👋"),
            assistant("", [CALL]),
            tool_result(CALL, "{}"),
            assistant("There."),
        ],
        turns=[
            Turn(10, 4, 0.5, "tool_calls", [ToolRun("lookup", "call_1", 0.1, error="no")]),
            Turn(20, 3, 0.4, "stop", [ToolRun("lookup", "call_2", 0.1, truncated=True)]),
        ],
        ledger=Ledger([sequence]),
        outcome={"success": True},
        rewards={"length": RewardRecord(0.5, 2.0, {"words": 3.0}, "three words")},
        reward=1.0,
        sample=2,
        seed=11,
        policy_version=3,
        model="tiny",
        started=1.5,
        seconds=2.5,
    )


def test_a_trajectory_survives_json():
    line = full().to_json()
    assert b"\n" not in line
    assert Trajectory.from_json(line) == full()


def test_a_trajectory_without_ledger_and_reward_survives_json():
    trajectory = make_trajectory("Hi", status="failed")
    assert Trajectory.from_json(trajectory.to_json()) == trajectory


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"id": 3}', "\x00"])
def test_a_line_that_is_no_trajectory_is_a_value_error(line):
    with pytest.raises(ValueError):  # noqa: PT011 - pydantic's own message
        Trajectory.from_json(line)


def test_voices_are_kept_apart():
    trajectory = full()
    assert [m["content"] for m in trajectory.policy_messages] == ["", "There."]
    assert [m["content"] for m in trajectory.tool_messages] == ["{}"]
    assert [m["content"] for m in trajectory.environment_messages] == ["Where is it? 👋"]
    assert trajectory.policy_text == "There."
    assert trajectory.final_text == "There."
    assert make_trajectory([user("Hi")]).final_text == ""
    assert trajectory.tool_errors == 1


@pytest.mark.parametrize("short", ["ids", "mask", "logprobs", "versions"])
def test_ledger_lists_of_different_lengths_are_refused(short):
    lists = {"ids": [1, 2], "mask": [0, 1], "logprobs": [0.0, -1.0], "versions": [-1, 0]}
    lists[short] = lists[short][:1]
    with pytest.raises(ValueError, match=f"ledger lists differ in length: .*{short} 1"):
        TokenSequence(**lists)


def test_a_ledger_counts_what_was_sampled_and_its_forks():
    sequence = full().ledger.sequences[0]
    assert sequence.prompt_length == 2
    assert sequence.sampled == 2
    assert TokenSequence([1], [0], [0.0], [-1]).prompt_length == 1
    assert Ledger([sequence, sequence]).forks == 1
    assert Ledger([sequence, sequence]).sampled == 4
    assert Ledger().forks == 0


def test_a_trajectory_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        full().reward = 2.0


def test_make_trajectory_answers_a_user():
    trajectory = make_trajectory("Hello!", outcome={"success": True}, sample=3)
    assert [message["role"] for message in trajectory.messages] == ["user", "assistant"]
    assert trajectory.id == "task-0-3"
    assert trajectory.outcome == {"success": True}
    assert make_trajectory("x", status="truncated").stop_reason == "turn_limit"


def test_a_conversation_had_elsewhere_becomes_a_trajectory():
    trajectory = Trajectory.of_messages(
        [user("Hi"), {"role": "assistant", "content": "Hello"}], context={"topic": "x"}
    )
    assert trajectory.final_text == "Hello"
    assert trajectory.task.data == {"topic": "x"}
    assert Trajectory.from_json(trajectory.to_json()) == trajectory


def test_a_reason_that_there_is_not_is_refused_where_a_line_is_read():
    line = full().to_json().replace(b'"stop_reason":"done"', b'"stop_reason":"tired"')
    with pytest.raises(ValueError, match="stop_reason"):
        Trajectory.from_json(line)


def test_a_line_without_spans_and_trace_is_read():
    line = full().to_json()
    old = re.sub(rb',"(spans":\[.*?\]|trace":null)', b"", line)
    assert len(old) < len(line)
    assert Trajectory.from_json(old) == replace(
        full(), ledger=Ledger([replace(full().ledger.sequences[0], spans=[])])
    )


def test_a_line_of_a_version_without_formats_is_read():
    line = make_trajectory("Yes.", outcome={"success": True, "environment_reward": 0.5}).to_json()
    old = line.replace(b'"format":1,', b"").replace(b',"environment_reward":null', b"")
    assert old.count(b"environment_reward") == 1
    read = Trajectory.from_json(old)
    assert (read.environment_reward, read.outcome) == (0.5, {"success": True})


@pytest.mark.parametrize("written", ["2", '"x"'])
def test_a_line_of_a_newer_version_says_so(written):
    line = full().to_json().replace(b'"format":1', f'"format":{written}'.encode())
    with pytest.raises(ValueError, match=r"has the format .*reads formats up to 1: upgrade"):
        Trajectory.from_json(line)


def test_a_line_that_is_no_object_is_no_trajectory():
    with pytest.raises(ValueError, match="a JSON object, and this is list"):
        Trajectory.from_json(b"[]")
