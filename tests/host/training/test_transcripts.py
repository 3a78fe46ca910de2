from __future__ import annotations

from grpo_host.training.transcripts import compare, transcripts
from grpo_sdk import Task, Trajectory, assistant, system, tool_call, tool_result, user


def played(task, answer, reward, *, success=False):
    call = tool_call("lookup_order", '{"order_id": "K482"}', "call_0")
    messages = [
        system("Help."),
        user("When does K482 arrive?"),
        assistant("", [call]),
        tool_result(call, '{"eta":  "Friday"}'),
        assistant(answer),
    ]
    return Trajectory(
        id=f"before/{task}",
        environment="order_desk",
        task=Task(task, {}, "held_out"),
        status="completed",
        stop_reason="done",
        messages=messages,
        outcome={"success": success},
        reward=reward,
    )


TASKS = [Task(name, {}, "held_out") for name in ("a", "b", "c")]


def test_the_conversations_of_the_first_tasks_are_kept_whatever_their_order_and_outcome():
    found = transcripts(
        TASKS, [played("c", "On Friday.", 1.0), played("b", "Hm.", 0.5), played("a", "", None)]
    )
    assert [(item["task"], item["reward"], item["success"]) for item in found] == [
        ("a", None, False),
        ("b", 0.5, False),
    ]
    assert [message["role"] for message in found[0]["messages"]] == ["user", "assistant", "tool", "assistant"]


def test_before_and_after_are_shown_with_the_tools_that_were_called():
    before = transcripts(TASKS, [played("a", "I do not know.", None)])
    after = transcripts(TASKS, [played("a", "It arrives\non Friday.", 1.0, success=True)])
    assert list(compare(before, after)) == [
        "",
        "a before: no reward",
        "  user  When does K482 arrive?",
        '  agent calls lookup_order {"order_id": "K482"}',
        '  tool  {"eta": "Friday"}',
        "  agent I do not know.",
        "a after: reward 1.00",
        "  user  When does K482 arrive?",
        '  agent calls lookup_order {"order_id": "K482"}',
        '  tool  {"eta": "Friday"}',
        "  agent It arrives on Friday.",
    ]


def test_nothing_is_compared_with_what_was_not_measured():
    assert list(compare([], transcripts(TASKS, [played("a", "Hello.", 1.0)]))) == []


def test_long_messages_are_cut_where_they_are_shown_and_kept_whole():
    found = transcripts(TASKS, [played("a", "word " * 100, 1.0)])
    assert found[0]["messages"][-1]["content"] == "word " * 100
    assert max(map(len, compare(found, found))) < 320
