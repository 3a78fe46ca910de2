"""Apps of LangChain's as they are, played in episodes: what they are given and give, and how they end.

That each sampled id is recorded once, whatever they do, is shown in test_twenty_cases.py.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
)
from langchain.agents.structured_output import ToolStrategy
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel
from tests.host.langchain.apps import Talk, agent_of, app_of, assert_exact, call, episode, lookup, play

from grpo_host.langchain.app import App
from grpo_host.rollouts.episode import EpisodeRequest, run_episode
from grpo_sdk import (
    StepResult,
    Task,
    Trajectory,
    record_reward,
)


def asks_once(heard: str) -> str:
    """The script of a model that looks up what it is asked for, and says what it found."""
    question = heard.rsplit("user\n", 1)[-1]
    if "packed" in question:
        return "It is packed."
    return call("lookup", order="A12")


@dataclass
class Customer:
    orders: dict[str, str]


def test_create_agent_with_tools_is_played(tokens):
    backend = tokens(asks_once)
    app = app_of(lambda model: create_agent(model, [lookup], system_prompt="Help.", name="desk"))
    trajectory = play(agent_of(backend, app), "Where is A12?", "And B1?")
    assert trajectory.error is None
    assert trajectory.outcome == {"heard": ["It is packed.", "It is packed."]}
    assert_exact(backend, trajectory)
    [sequence] = trajectory.ledger.sequences  # the whole conversation: its history only grew
    assert (sequence.role, sequence.weight) == ("desk", 1.0)
    roles = ["system", *["user", "assistant", "tool", "assistant"] * 2]
    assert [message["role"] for message in trajectory.messages] == roles
    assert [span.role for span in sequence.spans] == roles
    assert len(trajectory.turns) == 4


async def test_the_tools_and_the_task_of_an_episode_are_given_to_what_makes_the_app(tokens):
    class Shop(Talk):
        async def reset(self, task, *, seed):
            self.asked: list[str] = []
            return await super().reset(task, seed=seed)

        def tools(self):
            def find(order: str) -> str:
                """Find an order."""
                self.asked.append(order)
                return f"{order} is packed"

            return [find]

        async def step(self, action):
            return StepResult(done=True, outcome={"asked": self.asked})

    backend = tokens(lambda heard: "It is packed." if "packed" in heard else call("find", order="A12"))

    def build(model, tools, task):
        return create_agent(model, tools, system_prompt=f"Help {task['name']}.")

    agent = agent_of(backend, app_of(build, "model", "tools", "task"))
    request = EpisodeRequest(Task("t", {"lines": ["Where?"], "name": "Ann"}))
    trajectory = await run_episode(agent, Shop, request, environment_name="shop", seconds=30.0)
    assert trajectory.outcome == {"asked": ["A12"]}
    assert trajectory.messages[0]["content"] == "Help Ann."
    assert_exact(backend, trajectory)


def test_a_graph_is_given_context_from_the_task(tokens):
    @tool
    def find(order: str, runtime: ToolRuntime[Customer]) -> str:
        """Find an order."""
        return runtime.context.orders[order]

    backend = tokens(lambda heard: "So be it." if "in Rome" in heard else call("find", order="A12"))
    app = app_of(lambda model: create_agent(model, [find], context_schema=Customer))
    agent = agent_of(backend, app, context={"orders": "task.orders"})
    trajectory = play(agent, "Where?", orders={"A12": "in Rome"})
    assert trajectory.error is None
    assert [message["content"] for message in trajectory.tool_messages] == ["in Rome"]


def test_a_module_level_graph_that_was_made_before_is_played(tokens):
    backend = tokens(lambda _: "Hello.")
    agent = agent_of(backend, App("shop.app:graph", None))
    graph = create_agent(agent.model, [])
    trajectory = play(agent_of(backend, App("shop.app:graph", graph)), "Hi")
    assert trajectory.final_text == "Hello."
    assert_exact(backend, trajectory)


def test_a_graph_that_asks_two_questions_at_once_is_answered_one_after_the_other(tokens):
    backend = tokens(lambda heard: "Done.")

    def build(model):
        graph = StateGraph(MessagesState)
        for name in ("left", "right"):
            graph.add_node(name, lambda _, name=name: {"messages": [AIMessage(interrupt(f"{name}?"))]})
            graph.add_edge(START, name)
        return graph.compile(checkpointer=InMemorySaver())

    trajectory = play(agent_of(backend, app_of(build)), "Go", "one", "two")
    assert trajectory.error is None
    first, second, answer = trajectory.outcome["heard"]
    assert {first, second} == {"left?", "right?"}
    assert answer == ("two" if second == "right?" else "one")


def test_the_middleware_that_asks_a_person_is_told_their_decision_as_json(tokens):
    backend = tokens(lambda heard: "Cancelled." if "gone" in heard else call("cancel", order="A12"))

    @tool
    def cancel(order: str) -> str:
        """Cancel an order."""
        return f"{order} is gone"

    def build(model):
        ask = HumanInTheLoopMiddleware(interrupt_on={"cancel": True})
        return create_agent(model, [cancel], middleware=[ask], checkpointer=InMemorySaver())

    trajectory = play(agent_of(backend, app_of(build)), "Cancel A12", '{"decisions": [{"type": "approve"}]}')
    assert trajectory.error is None
    question, answer = trajectory.outcome["heard"]
    assert json.loads(question)["action_requests"][0]["args"] == {"order": "A12"}
    assert answer == "Cancelled."
    assert_exact(backend, trajectory)


def test_an_app_with_a_checkpointer_is_given_what_is_new(tokens):
    backend = tokens(lambda heard: f"Answer {heard.count('user')}.")
    app = app_of(lambda model: create_agent(model, [], checkpointer=InMemorySaver()))
    trajectory = play(agent_of(backend, app), "One?", "Two?")
    assert trajectory.outcome["heard"] == ["Answer 1.", "Answer 2."]
    assert_exact(backend, trajectory)
    assert len(trajectory.ledger.sequences) == 1


def test_a_call_from_another_event_loop_is_answered_in_the_episodes(tokens):
    loops = []

    class Noting(type(tokens(str))):
        async def generate(self, prompt, sampling):
            loops.append(asyncio.get_running_loop())
            return await super().generate(prompt, sampling)

    plain = tokens(lambda _: "Hello.")
    backend = Noting(plain.tokenizer, plain.script)

    def build(model):
        async def ask(messages):
            there = asyncio.get_running_loop()
            message = await asyncio.to_thread(asyncio.run, model.ainvoke(messages))
            assert loops == [there]
            return message

        return RunnableLambda(ask)

    trajectory = play(agent_of(backend, app_of(build), input="messages"), "Hi")
    assert trajectory.error is None
    assert trajectory.final_text == "Hello."
    assert_exact(backend, trajectory)


def test_the_failure_of_an_app_names_its_line(tokens):
    backend = tokens(lambda _: "Hello.")

    def build(model):
        async def ask(messages):
            await model.ainvoke(messages)
            return 1 / 0

        return RunnableLambda(ask)

    trajectory = play(agent_of(backend, app_of(build), input="messages"), "Hi")
    assert trajectory.status == "failed"
    assert trajectory.error.startswith("ZeroDivisionError: division by zero (langchain/test_app_agent.py:")
    assert_exact(backend, trajectory)


def test_an_app_that_catches_the_limit_of_its_model_calls_is_cut_all_the_same(tokens):
    backend = tokens(lambda _: "More.")

    def build(model):
        async def ask(messages):
            while True:
                try:
                    await model.ainvoke(messages)
                except Exception:
                    await asyncio.sleep(0.01)

        return RunnableLambda(ask)

    trajectory = play(agent_of(backend, app_of(build), turns=3, input="messages"), "Hi")
    assert (trajectory.status, trajectory.stop_reason) == ("truncated", "turn_limit")
    assert len(backend.log) == len(trajectory.turns) == 3
    assert_exact(backend, trajectory)


def test_an_app_that_fails_of_an_answer_that_was_cut_is_cut_itself(tokens):
    backend = tokens(lambda heard: "one two three")

    def build(model):
        def counted(said):
            raise ValueError(f"{said.text} is no number")

        return RunnableLambda(lambda given: given["messages"]) | model.bind(max_tokens=2) | counted

    trajectory = play(agent_of(backend, app_of(build)), "How many?")
    assert (trajectory.status, trajectory.stop_reason) == ("truncated", "context")
    assert "max_tokens cut the model's answer, of which the app makes nothing" in trajectory.error
    assert_exact(backend, trajectory)


def test_a_structured_answer_is_the_episodes_as_json(tokens):
    class Structured(type(tokens(str))):
        capabilities = tokens(str).capabilities | {"structured"}

    plain = tokens(None)
    replies = iter([call("Answer", order="A12"), call("Answer", order="A12", day="Monday")])
    backend = Structured(plain.tokenizer, lambda _: next(replies))

    class Answer(BaseModel):
        order: str
        day: str

    app = app_of(lambda model: create_agent(model, [], response_format=ToolStrategy(Answer)))
    trajectory = play(agent_of(backend, app), "When?")
    assert trajectory.error is None
    assert json.loads(trajectory.final_text) == {"order": "A12", "day": "Monday"}


def test_what_an_app_says_of_temperature_is_not_heard_and_its_shorter_answers_are(tokens):
    backend = tokens(lambda _: "A long answer, longer than it may be.")

    def build(model):
        return model.bind(temperature=0.1, top_p=0.5, max_tokens=4)

    trajectory = play(agent_of(backend, app_of(build), input="messages"), "Hi")
    assert trajectory.turns[0].completion_tokens == 4
    [sampling] = backend.sampling
    assert (sampling.temperature, sampling.top_p) == (1.0, 1.0)


async def test_sixty_four_episodes_at_once_keep_apart(tokens):
    def script(heard):
        number = heard.split("Number ")[1].split("!")[0]
        return f"It is {number}." if "packed" in heard else call("lookup", order=number)

    backend = tokens(script)
    app = app_of(lambda model: create_agent(model, [lookup]))
    agent = agent_of(backend, app)

    trajectories = await asyncio.gather(*(episode(agent, f"Number {n}!") for n in range(64)))
    assert [t.final_text for t in trajectories] == [f"It is {n}." for n in range(64)]
    assert_exact(backend, *trajectories)
    assert {len(t.ledger.sequences) for t in trajectories} == {1}


async def test_sixty_four_episodes_of_an_app_that_is_not_async_keep_apart(tokens):
    backend = tokens(lambda heard: f"It is {heard.split('Number ')[1].split('!')[0]}.")
    app = app_of(lambda model: RunnableLambda(lambda messages: model.invoke(messages)))
    agent = agent_of(backend, app, input="messages")

    trajectories = await asyncio.gather(*(episode(agent, f"Number {n}!") for n in range(64)))
    assert [t.final_text for t in trajectories] == [f"It is {n}." for n in range(64)]
    assert_exact(backend, *trajectories)


def test_the_tools_that_an_app_runs_are_noted_at_the_call_that_asked_for_them(tokens):
    @tool
    async def broken(order: str) -> str:
        """Is broken."""
        raise ToolException("no database")

    broken.handle_tool_error = True
    said = iter(
        [call("lookup", order="A12") + call("broken", order="B1"), call("broken", order="B2"), "Done."]
    )
    backend = tokens(lambda _: next(said))
    trajectory = play(agent_of(backend, app_of(lambda model: create_agent(model, [lookup, broken]))), "Go.")
    assert trajectory.error is None
    ran = [sorted((run.name, run.error) for run in turn.tools) for turn in trajectory.turns]
    assert ran == [[("broken", "no database"), ("lookup", None)], [("broken", "no database")], []]
    calls = {made["id"] for message in trajectory.policy_messages for made in message.get("tool_calls", ())}
    assert {run.call_id for turn in trajectory.turns for run in turn.tools} == calls
    assert trajectory.tool_errors == 2


def writer_and_judge(model):
    judge_agent = create_agent(model, [], system_prompt="You judge.", name="judge")

    @tool
    async def judge(text: str) -> str:
        """Judge a text."""
        found = await judge_agent.ainvoke({"messages": [HumanMessage(text)]})
        return found["messages"][-1].text

    return create_agent(model, [judge], name="writer")


def writes_and_judges(heard):
    if "You judge" in heard:
        return "Good."
    return "Done." if "Good." in heard else call("judge", text="Hm")


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, {"writer": 1.0, "judge": 1.0}),
        ({"writer": 1.0}, {"writer": 1.0, "judge": 0.0}),
        ({"writer": 1.0, "judge": 0.25}, {"writer": 1.0, "judge": 0.25}),
    ],
)
def test_roles_are_trained_as_agent_yaml_says(tokens, weights, expected):
    backend = tokens(writes_and_judges)
    agent = replace(agent_of(backend, app_of(writer_and_judge)), weights=weights)
    trajectory = play(agent, "Write.")
    assert {item.role: item.weight for item in trajectory.ledger.sequences} == expected
    assert_exact(backend, trajectory)


def test_roles_that_nobody_has_are_warned_of_once(tokens, caplog):
    agent = replace(agent_of(tokens(writes_and_judges), app_of(writer_and_judge)), weights={"wrter": 1.0})
    play(agent, "Write.")
    play(agent, "Write.")
    [record] = caplog.records
    said = "agent.train names wrter, and nothing of an episode is trained: its roles are judge, writer"
    assert record.message == said


def test_an_app_records_rewards_wherever_it_runs(tokens):
    def build(model):
        def in_a_thread(messages):
            record_reward("steps", 1)
            return model.invoke(messages)

        async def awaited(message):
            record_reward("steps", 1)
            assert record_reward("quality", 0.5)
            return message

        return RunnableLambda(in_a_thread) | RunnableLambda(awaited)

    agent = agent_of(tokens(lambda _: "Hi."), app_of(build), input="messages")
    trajectory = play(agent, "Hello", "And?")
    assert trajectory.recorded == {"steps": 4.0, "quality": 1.0}
    assert Trajectory.from_json(trajectory.to_json()).recorded == trajectory.recorded
    assert not record_reward("steps", 1)
