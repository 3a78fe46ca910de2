"""Apps of LangChain's as they are, played in episodes: whatever they do, each sampled id is recorded once."""

from __future__ import annotations

import asyncio
import json
import operator
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    ClearToolUsesEdit,
    ContextEditingMiddleware,
    HumanInTheLoopMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
)
from langchain.agents.structured_output import ToolStrategy
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import StructuredTool, ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt
from mcp import Client, StdioServerParameters
from pydantic import BaseModel

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.rendering import make_renderer
from grpo_host.config.schema import AppUse
from grpo_host.langchain.app import App, load_app
from grpo_host.langchain.app_agent import AppAgent, AppMapping
from grpo_host.rollouts.episode import EpisodeRequest, run_episode
from grpo_sdk import (
    Environment,
    Observation,
    Sampling,
    StepResult,
    Task,
    Trajectory,
    record_reward,
    user,
)

Ways = pytest.mark.parametrize("way", ["ainvoke", "astream", "invoke", "stream"])
"""How an app asks its model."""


class Talk(Environment):
    """Says the lines of its task one after another."""

    def tasks(self, split: str) -> list[Task]:
        return []

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.lines = list(task.data["lines"])
        self.heard: list[str] = []
        return Observation([user(self.lines.pop(0))])

    async def step(self, action: Any) -> StepResult:
        self.heard.append(action["content"])
        if self.lines:
            return StepResult([user(self.lines.pop(0))])
        return StepResult(done=True, outcome={"heard": self.heard})


def app_of(build: Callable[..., Any], *parameters: str) -> App:
    return App("test:build", None, build, frozenset(parameters or ("model",)))


def agent_of(backend, app, *, turns=20, input=None, context=None, output=None):
    agent = Agent(
        backend,
        make_renderer(backend.tokenizer, backend.model),
        sampling=Sampling(max_tokens=10_000),
        limits=AgentLimits(turns=turns, turn_seconds=20.0),
    )
    return AppAgent(agent, app, AppMapping(input, context or {}, output))


async def episode(agent, *lines, seconds=30.0, **data) -> Trajectory:
    request = EpisodeRequest(Task("t", {"lines": lines, **data}), seed=3, id="t/0")
    return await run_episode(agent, Talk, request, environment_name="talk", seconds=seconds)


def play(agent, *lines, **options) -> Trajectory:
    return asyncio.run(episode(agent, *lines, **options))


def sampled(*trajectories):
    """Each answer in the ledgers, behind all that stands before it."""
    found = []
    for trajectory in trajectories:
        for sequence in trajectory.ledger.sequences:
            at = 0
            while 1 in sequence.mask[at:]:
                start = sequence.mask.index(1, at)
                at = sequence.mask.index(0, start) if 0 in sequence.mask[start:] else len(sequence.mask)
                found.append((sequence.ids[:start], sequence.ids[start:at]))
    return found


def assert_exact(backend, *trajectories):
    """Every id that the backend sampled is in one sequence, behind what it was shown, and no other is."""
    assert sorted(sampled(*trajectories)) == sorted(backend.log)
    counted = sum(trajectory.ledger.sampled for trajectory in trajectories)
    assert counted == sum(len(ids) for _, ids in backend.log)
    assert counted == sum(turn.completion_tokens for t in trajectories for turn in t.turns)


def call(name: str, **arguments: Any) -> str:
    return f'<tool_call>{{"name": "{name}", "arguments": {json.dumps(arguments)}}}</tool_call>'


@tool
def lookup(order: str) -> str:
    """Look up an order."""
    return f"{order} is packed"


def asks_once(heard: str) -> str:
    """The script of a model that looks up what it is asked for, and says what it found."""
    question = heard.rsplit("user\n", 1)[-1]
    if "packed" in question:
        return "It is packed."
    return call("lookup", order="A12")


def in_way(way: str, model: Any) -> Any:
    """A Runnable that asks ``model`` as ``way`` says, whichever way it is itself called."""

    async def awaited(given):
        if way == "ainvoke":
            return await model.ainvoke(given)
        chunks = [chunk async for chunk in model.astream(given)]
        return sum(chunks[1:], chunks[0])

    def called(given):
        if way == "invoke":
            return model.invoke(given)
        chunks = list(model.stream(given))
        return sum(chunks[1:], chunks[0])

    return RunnableLambda(awaited if way.startswith("a") else called)


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


@Ways
def test_a_loop_of_model_calls_in_any_way(tokens, way):
    backend = tokens(lambda heard: f"Word {heard.count('assistant')}.")

    def build(model):
        def route(state):
            return END if len(state["messages"]) > 6 else "ask"

        asked = in_way(way, model)
        graph = StateGraph(MessagesState)
        if way.startswith("a"):

            async def ask(state):
                return {"messages": [await asked.ainvoke(state["messages"]), HumanMessage("More.")]}
        else:

            def ask(state):
                return {"messages": [asked.invoke(state["messages"]), HumanMessage("More.")]}

        graph.add_node("ask", ask)
        graph.add_edge(START, "ask")
        graph.add_conditional_edges("ask", route)
        return graph.compile()

    trajectory = play(agent_of(backend, app_of(build), output="messages.5.content"), "Count.")
    assert trajectory.error is None
    assert trajectory.final_text == "Word 3."
    assert_exact(backend, trajectory)
    assert len(trajectory.ledger.sequences) == 1
    assert {sequence.role for sequence in trajectory.ledger.sequences} == {"ask"}


@Ways
def test_parallel_runnables_and_batches_have_sequences_of_their_own(tokens, way):
    backend = tokens(lambda heard: f"About {heard.rsplit('user', 1)[-1].split()[0]}.")

    def build(model):
        chain = ChatPromptTemplate.from_template("{topic}") | in_way(way, model) | StrOutputParser()
        branches = RunnableParallel(a=lambda _: "a", both=lambda _: None) | RunnableLambda(
            lambda _: chain.batch([{"topic": "four"}, {"topic": "five"}])
        )
        several = RunnableParallel(
            one=RunnableLambda(lambda _: {"topic": "one"}) | chain,
            two=RunnableLambda(lambda _: {"topic": "two"}) | chain,
        )
        if way.startswith("a"):
            return several | RunnableLambda(lambda found: " ".join(found.values()))
        return RunnableParallel(several=several, batch=branches) | RunnableLambda(
            lambda found: " ".join([*found["several"].values(), *found["batch"]])
        )

    trajectory = play(agent_of(backend, app_of(build), input="messages"), "Go.")
    assert trajectory.error is None
    expected = "About one. About two."
    assert trajectory.final_text == (
        expected if way.startswith("a") else f"{expected} About four. About five."
    )
    assert_exact(backend, trajectory)
    assert len(trajectory.ledger.sequences) == len(backend.log)


def test_several_tool_calls_in_one_message(tokens):
    backend = tokens(
        lambda heard: (
            "Both are packed."
            if "packed" in heard
            else call("lookup", order="A12") + call("lookup", order="B1")
        )
    )
    trajectory = play(agent_of(backend, app_of(lambda model: create_agent(model, [lookup]))), "Both?")
    assert [m["content"] for m in trajectory.tool_messages] == ["A12 is packed", "B1 is packed"]
    assert_exact(backend, trajectory)
    assert len(trajectory.ledger.sequences) == 1


def test_fan_out_with_send_and_a_subgraph_that_goes_on(tokens):
    backend = tokens(lambda heard: f"Told {heard.count('user')}.")

    class State(TypedDict):
        messages: list
        found: Annotated[list, operator.add]

    def build(model):
        def inner(state: MessagesState):
            return Command(goto=END, update={"messages": [model.invoke(state["messages"])]})

        sub = StateGraph(MessagesState)
        sub.add_node("inner", inner)
        sub.add_edge(START, "inner")
        compiled = sub.compile()

        async def work(state):
            given = [HumanMessage(state["topic"])]
            first = (await compiled.ainvoke({"messages": given}))["messages"]
            again = (await compiled.ainvoke({"messages": [*first, HumanMessage("More.")]}))["messages"]
            return {"found": [again[-1].text]}

        graph = StateGraph(State)
        graph.add_node("plan", lambda state: {})
        graph.add_node("work", work)
        graph.add_node("end", lambda state: {"messages": [AIMessage(" ".join(state["found"]))]})
        graph.add_edge(START, "plan")
        graph.add_conditional_edges("plan", lambda _: [Send("work", {"topic": f"{n}"}) for n in range(3)])
        graph.add_edge("work", "end")
        graph.add_edge("end", END)
        return graph.compile()

    trajectory = play(agent_of(backend, app_of(build)), "Go.")
    assert trajectory.final_text == "Told 2. Told 2. Told 2."
    assert_exact(backend, trajectory)
    assert len(trajectory.ledger.sequences) == 3


def test_sub_agents_have_their_names_as_roles(tokens):
    def script(heard):
        if "You judge" in heard:
            return "Good."
        return "Done." if "Good." in heard else call("judge", text="Hm")

    backend = tokens(script)

    def build(model):
        judge_agent = create_agent(model, [], system_prompt="You judge.", name="judge")

        @tool
        async def judge(text: str) -> str:
            """Judge a text."""
            found = await judge_agent.ainvoke({"messages": [HumanMessage(text)]})
            return found["messages"][-1].text

        return create_agent(model, [judge], name="writer")

    trajectory = play(agent_of(backend, app_of(build)), "Write.")
    assert trajectory.final_text == "Done."
    assert_exact(backend, trajectory)
    assert sorted(item.role for item in trajectory.ledger.sequences) == ["judge", "writer"]


def test_a_history_that_is_summed_up_begins_a_new_sequence_and_loses_none(tokens):
    def script(heard):
        if "summar" in heard.lower() and "extract" in heard.lower():
            return "They talked."
        return f"Answer {heard.count('user')}."

    backend = tokens(script)

    def build(model):
        middleware = SummarizationMiddleware(model, trigger=("messages", 4), keep=("messages", 2))
        return create_agent(model, [], middleware=[middleware], name="desk")

    trajectory = play(agent_of(backend, app_of(build)), "One?", "Two?", "Three?", "Four?")
    assert trajectory.error is None
    assert_exact(backend, trajectory)
    assert {item.role for item in trajectory.ledger.sequences} == {"desk", "summarization"}


def test_a_history_whose_tool_results_are_cleared_begins_a_new_sequence_and_loses_none(tokens):
    def script(heard):
        looked_up = heard.count("tool_response") + heard.count("[cleared]")
        return call("lookup", order=f"A{looked_up}") if heard.count("<tool_call>") < 3 else "All are packed."

    backend = tokens(script)

    def build(model):
        edit = ClearToolUsesEdit(trigger=40, keep=1)
        return create_agent(model, [lookup], middleware=[ContextEditingMiddleware(edits=[edit])])

    trajectory = play(agent_of(backend, app_of(build)), "Where are A0, A1 and A2?")
    assert trajectory.error is None
    assert trajectory.final_text == "All are packed."
    assert_exact(backend, trajectory)
    assert len(trajectory.ledger.sequences) > 1
    assert any("[cleared]" in heard for heard, _ in backend.sampled)


def test_tools_of_an_mcp_server_are_called_as_they_come(tokens):
    server = Path(__file__).parents[2] / "plugins/tools/small_mcp_server.py"
    backend = tokens(lambda heard: "It is 5." if "5" in heard else call("add", a=2, b=3))

    async def ask(**arguments):  # coroutines alone, with an artifact, as LangChain's adapter makes them
        async with Client(StdioServerParameters(command=sys.executable, args=[str(server)])) as client:
            result = await client.call_tool("add", arguments)
        return result.content[0].text, result.structured_content

    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    add = StructuredTool(
        name="add",
        description="Add two numbers.",
        args_schema=schema,
        coroutine=ask,
        response_format="content_and_artifact",
    )
    trajectory = play(agent_of(backend, app_of(lambda model: create_agent(model, [add]))), "2 + 3?")
    assert trajectory.error is None
    assert trajectory.final_text == "It is 5."
    assert [message["content"] for message in trajectory.tool_messages] == ["5"]
    assert_exact(backend, trajectory)


def test_a_graph_of_a_langgraph_json_is_played(tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "src" / "desk_of_langgraph"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "graph.py").write_text(
        "from langchain.agents import create_agent\n\n\n"
        "def make(model):\n    return create_agent(model, [], system_prompt='Be kind.')\n"
    )
    named = {"dependencies": ["./src"], "graphs": {"desk": "./src/desk_of_langgraph/graph.py:make"}}
    (tmp_path / "langgraph.json").write_text(json.dumps(named))
    app = load_app(AppUse(name="langgraph.json#desk", folder=str(tmp_path)))
    backend = tokens(lambda heard: "Hello." if "Be kind." in heard else "No.")
    trajectory = play(agent_of(backend, app), "Hi")
    assert trajectory.final_text == "Hello."
    assert_exact(backend, trajectory)


def test_a_call_that_failed_is_tried_again_or_elsewhere_and_has_no_tokens(tokens):
    failing = iter([True, False, True, False])

    def script(heard):
        if next(failing):
            raise OSError("the engine coughs")
        return "Well."

    backend = tokens(script)

    def build(model):
        return create_agent(model, [], middleware=[ModelRetryMiddleware(max_retries=2, initial_delay=0.0)])

    trajectory = play(agent_of(backend, app_of(build)), "Hi")
    assert trajectory.final_text == "Well."
    assert_exact(backend, trajectory)

    backend.log.clear()

    def build_with_fallback(model):
        return create_agent(model, [], middleware=[ModelFallbackMiddleware(model)])

    trajectory = play(agent_of(backend, app_of(build_with_fallback)), "Hi")
    assert trajectory.final_text == "Well."
    assert_exact(backend, trajectory)


def test_an_app_that_waits_for_the_user_goes_on_with_what_he_says(tokens):
    backend = tokens(lambda heard: "Cancelled." if "yes" in heard else call("cancel", order="A12"))

    @tool
    def cancel(order: str) -> str:
        """Cancel an order."""
        said = interrupt(f"Cancel {order}?")
        return f"the user says {said}"

    def build(model):
        return create_agent(model, [cancel], checkpointer=InMemorySaver())

    trajectory = play(agent_of(backend, app_of(build)), "Cancel A12", "yes")
    assert trajectory.error is None
    assert trajectory.outcome["heard"] == ["Cancel A12?", "Cancelled."]
    assert_exact(backend, trajectory)
    assert len(trajectory.ledger.sequences) == 1


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


def test_a_checkpoint_that_is_played_again_doubles_no_token(tokens):
    backend = tokens(lambda heard: f"Answer {len(backend.log)}.")

    def build(model):
        inner = create_agent(model, [], checkpointer=InMemorySaver())
        config = {"configurable": {"thread_id": "inner"}}

        async def twice(state):
            given = {"messages": state["messages"]}
            await inner.ainvoke(given, config)
            past = [item async for item in inner.aget_state_history(config)]
            before = next(item for item in past if item.next == ("model",))
            found = await inner.ainvoke(None, before.config)
            return {"messages": [found["messages"][-1]]}

        graph = StateGraph(MessagesState)
        graph.add_node("twice", twice)
        graph.add_edge(START, "twice")
        return graph.compile()

    trajectory = play(agent_of(backend, app_of(build)), "One?")
    assert trajectory.final_text == "Answer 1."
    assert_exact(backend, trajectory)
    assert len(trajectory.ledger.sequences) == 2


def test_a_stream_that_is_left_half_way_is_kept_and_not_trained(tokens):
    class Pausing(type(tokens(str))):
        told: list[int]

        async def stream_ids(self, prompt, sampling):
            self.told = self._tokenizer.encode("Well, let", add_special_tokens=False)
            yield self.told
            await asyncio.sleep(60)

    plain = tokens(lambda _: "All.")
    backend = Pausing(plain.tokenizer, plain.script)

    def build(model):
        async def ask(state):
            async for chunk in model.astream(state["messages"]):
                if chunk.text:
                    return {"messages": [AIMessage("enough")]}
            return None

        graph = StateGraph(MessagesState)
        graph.add_node("ask", ask)
        graph.add_edge(START, "ask")
        return graph.compile()

    trajectory = play(agent_of(backend, app_of(build)), "Hi")
    assert trajectory.error is None
    [cut] = trajectory.ledger.sequences
    assert cut.weight == 0.0
    assert [token for token, own in zip(cut.ids, cut.mask, strict=True) if own] == backend.told


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


def test_a_bare_thread_is_told_that_it_belongs_to_no_episode(tokens):
    backend = tokens(lambda _: "Hello.")

    def build(model):
        def ask(messages):
            failed = []

            def work():
                try:
                    model.invoke(messages)
                except Exception as problem:
                    failed.append(problem)

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            raise failed[0]

        return RunnableLambda(ask)

    trajectory = play(agent_of(backend, app_of(build), input="messages"), "Hi")
    assert trajectory.status == "failed"
    assert "outside of an episode, or in a thread that does not know its episode" in trajectory.error
    assert backend.log == []


@pytest.mark.parametrize(
    ("raised", "status", "says"),
    [
        (lambda: 1 / 0, "failed", "ZeroDivisionError: division by zero"),
        (lambda: time.sleep(0.5), "failed", "the episode took more than 0.2 s"),
    ],
    ids=["raises", "hangs"],
)
def test_an_app_that_raises_or_hangs_is_a_failed_episode(tokens, raised, status, says):
    backend = tokens(lambda _: "Hello.")

    def build(model):
        async def ask(messages):
            await model.ainvoke(messages)
            return await asyncio.to_thread(raised)

        return RunnableLambda(ask)

    trajectory = play(agent_of(backend, app_of(build), input="messages"), "Hi", seconds=0.2)
    assert trajectory.status == status
    assert trajectory.error.startswith(says)
    assert says.startswith("the episode") or "(langchain/test_app_agent.py:" in trajectory.error
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


def test_langgraphs_recursion_limit_is_an_ordinary_end(tokens):
    backend = tokens(lambda _: call("lookup", order="A12"))

    def build(model):
        return create_agent(model, [lookup]).with_config(recursion_limit=5)

    trajectory = play(agent_of(backend, app_of(build)), "Hi")
    assert (trajectory.status, trajectory.stop_reason) == ("truncated", "turn_limit")
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
