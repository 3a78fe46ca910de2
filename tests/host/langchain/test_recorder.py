"""Production runs of apps become trajectories that rewards can score and a warm start can imitate."""

from __future__ import annotations

import json
import math

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from grpo_host.dialogues import read_demonstrations
from grpo_host.langchain import TrajectoryRecorder, add_feedback
from grpo_sdk.errors import ConfigError
from grpo_sdk.trajectory import Trajectory


class Model(GenericFakeChatModel):
    """Says what it is given to say."""

    def bind_tools(self, tools, **kwargs):
        return self


@tool
def lookup(order: str) -> str:
    """Look up an order."""
    if order == "B1":
        raise ValueError("no such order")
    return f"{order} is packed"


def calls(order: str = "A12") -> AIMessage:
    used = {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25}
    call = {"name": "lookup", "args": {"order": order}, "id": f"c-{order}", "type": "tool_call"}
    return AIMessage("", tool_calls=[call], usage_metadata=used)


def app_of(*said):
    return create_agent(Model(messages=iter(said)), [lookup], system_prompt="Help.", name="desk")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "recorded" / "runs.jsonl"


def recorded(path) -> list[Trajectory]:
    return [Trajectory.from_json(line) for line in path.read_bytes().splitlines()]


def ask(app, path, text="Where is A12?", **config):
    return app.invoke({"messages": [HumanMessage(text)]}, {"callbacks": [TrajectoryRecorder(path)], **config})


def test_a_run_of_an_agent_is_one_trajectory(path):
    ask(app_of(calls(), AIMessage("It is packed.")), path, metadata={"customer": "Ada"})
    [trajectory] = recorded(path)
    assert trajectory.status == "completed"
    assert trajectory.environment == "desk"
    assert trajectory.task.data == {"customer": "Ada"}
    roles = ["system", "user", "assistant", "tool", "assistant"]
    assert [message["role"] for message in trajectory.messages] == roles
    assert trajectory.messages[-1]["content"] == "It is packed."
    first, second = trajectory.turns
    assert (first.prompt_tokens, first.completion_tokens, first.finish_reason) == (20, 5, "tool_calls")
    assert [(run.name, run.error) for run in first.tools] == [("lookup", None)]
    assert second.finish_reason == "stop"


@pytest.mark.parametrize("way", ["ainvoke", "stream", "astream"])
async def test_however_an_app_is_called_the_same_is_recorded(path, way):
    app = app_of(calls(), AIMessage("It is packed."))
    given, config = {"messages": [HumanMessage("?")]}, {"callbacks": [TrajectoryRecorder(path)]}

    if way == "stream":
        list(app.stream(given, config))
    else:
        if way == "ainvoke":
            await app.ainvoke(given, config)
        else:
            _ = [part async for part in app.astream(given, config)]
    [trajectory] = recorded(path)
    assert [message["role"] for message in trajectory.messages[1:]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


def test_runs_side_by_side_are_trajectories_of_their_own(path):
    app = RunnableLambda(lambda text: Model(messages=iter([AIMessage(f"You say {text}")])).invoke(text))
    app.batch([f"line {n}" for n in range(8)], {"callbacks": [TrajectoryRecorder(path)]})
    said = {t.messages[0]["content"]: t.messages[1]["content"] for t in recorded(path)}
    assert said == {f"line {n}": f"You say line {n}" for n in range(8)}


def test_a_model_that_is_called_alone_is_a_run_too(path):
    Model(messages=iter([AIMessage("Hello.")])).invoke("Hi", {"callbacks": [TrajectoryRecorder(path)]})
    [trajectory] = recorded(path)
    assert [message["content"] for message in trajectory.messages] == ["Hi", "Hello."]


def test_a_run_that_fails_is_recorded_as_failed(path):
    with pytest.raises(ValueError, match="no such order"):
        ask(app_of(calls("B1")), path)
    [trajectory] = recorded(path)
    assert (trajectory.status, trajectory.error) == ("failed", "ValueError: no such order")
    assert trajectory.turns[0].tools[0].error == "ValueError: no such order"


def test_a_run_without_a_model_call_is_not_recorded(path):
    RunnableLambda(lambda text: text).invoke("x", {"callbacks": [TrajectoryRecorder(path)]})
    assert not path.exists()


def test_the_recorder_keeps_nothing_of_a_run_that_is_over(path):
    recorder = TrajectoryRecorder(path)
    app_of(calls(), AIMessage("Done.")).invoke({"messages": [HumanMessage("?")]}, {"callbacks": [recorder]})
    assert not recorder._runs
    assert not recorder._calls
    assert not recorder._running


def test_a_picture_is_kept_as_a_part_of_the_message(path):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    question = HumanMessage(["What is it?", picture])
    Model(messages=iter([AIMessage("A cat.")])).invoke([question], {"callbacks": [TrajectoryRecorder(path)]})
    [trajectory] = recorded(path)
    assert [message["content"] for message in trajectory.messages] == ["What is it?", "A cat."]
    assert trajectory.messages[0]["parts"][1] == picture


def test_a_recording_is_said_not_to_be_kept(path):
    sound = HumanMessage([{"type": "audio", "base64": "AA", "mime_type": "audio/wav"}])
    Model(messages=iter([AIMessage("A cat.")])).invoke([sound], {"callbacks": [TrajectoryRecorder(path)]})
    [trajectory] = recorded(path)
    assert [message["content"] for message in trajectory.messages] == ["A cat."]
    assert "audio" in trajectory.outcome["unread"]


def test_what_cannot_be_written_does_not_fail_the_app(path, caplog):
    recorder = TrajectoryRecorder(path)
    path.mkdir()
    answer = Model(messages=iter([AIMessage("Hello.")])).invoke("Hi", {"callbacks": [recorder]})
    assert answer.content == "Hello."
    assert "could not be recorded" in caplog.text


def test_feedback_is_added_later_and_replaced(path):
    for line in ("One", "Two"):
        Model(messages=iter([AIMessage(line)])).invoke("Hi", {"callbacks": [TrajectoryRecorder(path)]})
    first, second = recorded(path)
    assert add_feedback(path, {first.id: {"helpful": 0}, "another": {"helpful": 1}}) == 1
    assert add_feedback(path, {first.id: {"helpful": 1.0, "kind": 0.5}}) == 1
    assert [t.recorded for t in recorded(path)] == [{"helpful": 1.0, "kind": 0.5}, {}]
    assert recorded(path)[1] == second


@pytest.mark.parametrize("value", [math.nan, "good", True])
def test_feedback_that_is_no_number_is_refused(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    with pytest.raises(ConfigError, match="the score helpful of x must be"):
        add_feedback(path, {"x": {"helpful": value}})


def test_a_line_that_is_no_trajectory_is_named(path):
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"no": "id"}\n')
    with pytest.raises(ConfigError, match=r"runs\.jsonl:1: this line is no trajectory"):
        add_feedback(path, {"x": {"helpful": 1.0}})
    with pytest.raises(ConfigError, match="cannot be read"):
        add_feedback(path.with_name("nowhere"), {})


def test_a_warm_start_can_imitate_what_was_recorded(path):
    ask(app_of(calls(), AIMessage("It is packed.")), path)
    [dialogue] = read_demonstrations(path)
    assert json.dumps(dialogue.messages[2]).count("lookup") == 1
