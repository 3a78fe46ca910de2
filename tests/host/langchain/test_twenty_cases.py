"""Twenty things that apps do, each called in four ways: every token is recorded and trained once.

Each case is an app that is played in an episode whose backend keeps a log of its own. ``asked`` is the model,
called in the way in which the app is: as a node or in a chain. A case that is not played in all four ways
says which, and why. Those of an engine that samples are in test_on_an_engine.py.
"""

from __future__ import annotations

import json
import operator
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    ClearToolUsesEdit,
    ContextEditingMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
)
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel
from langchain_core.runnables.config import ContextThreadPoolExecutor
from langchain_core.tools import StructuredTool, tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt
from mcp import Client
from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel
from tests.host.langchain.apps import WAYS, Called, agent_of, app_of, assert_exact, call, episode, lookup

from grpo_host.config.schema import AppUse
from grpo_host.langchain.app import load_app
from grpo_host.langchain.redirect import Redirect
from grpo_host.training.trl.rows import make_rows

MODEL = ChatOpenAI(model="gpt-5-mini", api_key="none", max_retries=0)
"""An app's own, made when its file is imported."""
GRAPH = create_agent(MODEL, [lookup], system_prompt="Help.", name="desk")
JSON = '{"order": "A12", "day": "Monday"}'


class Answer(BaseModel):
    """An answer."""

    order: str
    day: str


class Unknown(BaseModel):
    """There is no answer."""

    why: str


def looks_up(heard: str) -> str:
    """A model that looks an order up, and says what it has found."""
    asked = heard.rsplit("user\n", 1)[-1]
    return "It is packed." if "packed" in asked else call("lookup", order="A12")


def counts(heard: str) -> str:
    return f"Answer {heard.count('assistant')}."


def hello(heard: str) -> str:
    return "Hello there."


def fills_in(heard: str) -> str:
    return call("Answer", order="A12", day="Monday") if '"name": "Answer"' in heard else JSON


@dataclass(frozen=True)
class Case:
    build: Callable[[Any, Any], Runnable[Any, Any]]
    script: Callable[[str], str]
    answer: str
    """That of the episode: its last."""
    roles: Sequence[str] = ("",)
    """Of the sequences: each is a conversation that the app held."""
    lines: Sequence[str] = ("Where is A12?",)
    """What the user says."""
    ways: Sequence[str] = WAYS
    status: str = "completed"
    error: str = ""
    cut: int = 0
    """Answers that were left half-way."""
    redirected: bool = False
    weights: dict[str, float] | None = None


CASES: dict[str, Case] = {}


def case(name: str, script: Callable[[str], str], answer: str, roles: Sequence[str] = ("",), **more: Any):
    def add(build):
        CASES[name] = Case(build, script, answer, roles, **more)
        return build

    return add


def node_of(asked: Any) -> Runnable[Any, Any]:
    """A node of a graph of messages that adds what ``asked`` says."""
    return (
        RunnableLambda(lambda state: state["messages"])
        | asked
        | RunnableLambda(lambda said: {"messages": [said]})
    )


def graph_of(**nodes: Any) -> Any:
    """A graph of messages with these nodes, one after another."""
    graph = StateGraph(MessagesState)
    for before, (name, node) in zip([START, *nodes], nodes.items(), strict=False):
        graph.add_node(name, node)
        graph.add_edge(before, name)
    return graph.compile()


# 1: create_agent


@case("1 create_agent, plain", counts, "Answer 2.", ["desk"], lines=["Hi.", "And?"])
def plain(model, asked):
    return create_agent(model, [], system_prompt="Help.", name="desk")


@case("1 create_agent with tools", looks_up, "It is packed.", ["desk"], lines=["Where?", "And B1?"])
def with_tools(model, asked):
    return create_agent(model, [lookup], system_prompt="Help.", name="desk")


# 2: several calls of tools in one message


def looks_up_two(heard):
    return "Both." if "packed" in heard else call("lookup", order="A12") + call("lookup", order="B1")


@case("2 parallel tool calls", looks_up_two, "Both.", ["model"])
def parallel_calls(model, asked):
    return create_agent(model, [lookup])


# 3 and 4: structured answers of create_agent


def fails_first(heard):
    return call("Answer", order="A12") if "Error" not in heard else call("Unknown", why="closed")


@case("3 ToolStrategy: a union, tried again", fails_first, '{"why": "closed"}', ["model"])
def tool_strategy(model, asked):
    return create_agent(model, [], response_format=ToolStrategy(Answer | Unknown))


def looks_up_and_fills_in(heard):
    return JSON if "packed" in heard else call("lookup", order="A12")


@case("4 ProviderStrategy", looks_up_and_fills_in, JSON, ["model"])
def provider_strategy(model, asked):
    return create_agent(model, [lookup], response_format=ProviderStrategy(Answer))


# 5: with_structured_output


def structured(**options):
    def build(model, asked):
        def read(found):
            assert not options.get("include_raw") or found["raw"].text or found["raw"].tool_calls
            return found["parsed"] if options.get("include_raw") else found

        return (
            RunnableLambda(lambda given: given["messages"])
            | model.with_structured_output(Answer, **options)
            | RunnableLambda(read)
        )

    return build


for method in ("json_schema", "function_calling", "json_mode"):
    for raw in (False, True):
        name = f"5 with_structured_output, {method}{', include_raw' * raw}"
        said = call("Answer", order="A12", day="Monday") if method == "function_calling" else JSON
        case(name, lambda heard, said=said: said, JSON)(structured(method=method, include_raw=raw))


# 6: streams


@tool
def loud_lookup(order: str) -> str:
    """Look up an order."""
    get_stream_writer()("looking")
    return f"{order} is packed"


def looks_up_loudly(heard):
    return looks_up(heard).replace('"lookup"', '"loud_lookup"')


@case(
    "6 stream modes messages, updates and custom",
    looks_up_loudly,
    "It is packed.",
    ["model"],
    ways=["astream", "stream"],  # there is nothing to stream in the others
)
def stream_modes(model, asked):
    graph = create_agent(model, [loud_lookup])
    modes = ["messages", "updates", "custom"]

    def last(items):
        assert {mode for mode, _ in items} == set(modes)
        return [part["model"] for mode, part in items if mode == "updates" and "model" in part][-1]

    async def astreamed(given):
        return last([item async for item in graph.astream(given, stream_mode=modes)])

    return RunnableLambda(lambda given: last(list(graph.stream(given, stream_mode=modes))), astreamed)


@case("6 events v3", looks_up, "It is packed.", ["model"], ways=["astream", "stream"])
def events_v3(model, asked):
    graph = create_agent(model, [lookup])

    async def astreamed(given):
        run = await graph.astream_events(given, version="v3")
        heard = [await message.text async for message in run.messages]
        assert heard[-1] == "It is packed."
        return await run.output()

    def streamed(given):
        run = graph.stream_events(given, version="v3")
        heard = [str(message.text) for message in run.messages]
        assert heard[-1] == "It is packed."
        return run.output

    return RunnableLambda(streamed, astreamed)


@case("6 events v3 of the model alone", hello, "Hello there.", ways=["astream", "stream"])
def model_events_v3(model, asked):
    async def astreamed(given):
        return await (await model.astream_events(given["messages"], version="v3"))

    return RunnableLambda(
        lambda given: model.stream_events(given["messages"], version="v3").output, astreamed
    )


@case(
    "6 a stream that is left half-way",
    hello,
    "Hello there.",
    ["", ""],
    cut=1,
    ways=["astream", "stream"],
)
def left_half_way(model, asked):
    async def astreamed(given):
        async with aclosing(model.astream(given["messages"])) as stream:
            await anext(stream)
        return await model.ainvoke([HumanMessage("Again.")])

    def streamed(given):
        with closing(model.stream(given["messages"])) as stream:
            next(stream)
        return model.invoke([HumanMessage("Again.")])

    return RunnableLambda(streamed, astreamed)


# 7: chains, side by side


def about(heard):
    return f"About {heard.rsplit('user', 1)[-1].split()[0]}."


PROMPT = ChatPromptTemplate.from_template("{topic}")


@case("7 a chain", about, "About one.")
def chain(model, asked):
    return RunnableLambda(lambda _: {"topic": "one"}) | PROMPT | model | StrOutputParser()


@case("7 RunnableParallel", about, "About one. About two.", ["", ""])
def runnable_parallel(model, asked):
    one, two = (
        RunnableLambda(lambda _, topic=topic: {"topic": topic}) | PROMPT | asked | StrOutputParser()
        for topic in ("one", "two")
    )
    return RunnableParallel(one=one, two=two) | RunnableLambda(lambda found: f"{found['one']} {found['two']}")


@case("7 batch", about, "About one. About two. About three.", [""] * 3)
def batch(model, asked):
    topics = [{"topic": topic} for topic in ("one", "two", "three")]
    line = PROMPT | asked | StrOutputParser()

    async def awaited(_):
        return " ".join(await line.abatch(topics))

    return RunnableLambda(lambda _: " ".join(line.batch(topics)), awaited)


# 8: graphs


class Found(TypedDict):
    messages: list
    found: Annotated[list, operator.add]


def told(heard):
    return f"Told {heard.count('user')}."


@case("8 Send, a subgraph, a loop and Command", told, "Told 2. Told 2.", ["inner", "inner"], lines=["Go."])
def graphs(model, asked):
    inner = StateGraph(MessagesState)
    inner.add_node("inner", node_of(asked))

    def route(state) -> Command:
        if len(state["messages"]) > 3:
            return Command(goto=END)
        return Command(goto="inner", update={"messages": [HumanMessage("More.")]})

    inner.add_node("route", route, destinations=("inner", END))
    inner.add_edge(START, "inner")
    inner.add_edge("inner", "route")

    work = (
        RunnableLambda(lambda state: {"messages": [HumanMessage(state["topic"])]})
        | inner.compile()
        | RunnableLambda(lambda state: {"found": [state["messages"][-1].text]})
    )
    graph = StateGraph(Found)
    graph.add_node("plan", lambda state: {})
    graph.add_node("work", work)
    graph.add_node("end", lambda state: {"messages": [AIMessage(" ".join(state["found"]))]})
    graph.add_edge(START, "plan")
    graph.add_conditional_edges(
        "plan", lambda _: [Send("work", {"topic": f"{n}"}) for n in range(2)], ["work"]
    )
    graph.add_edge("work", "end")
    return graph.compile()


# 9: agents that ask agents


def writes(heard):
    if "You judge" in heard:
        return "Good."
    return "Done." if "Good." in heard else call("judge", text="Hm")


def judge_tool(judge):
    def ask(text: str) -> str:
        """Judge a text."""
        return judge.invoke({"messages": [HumanMessage(text)]})["messages"][-1].text

    async def aask(text: str) -> str:
        return (await judge.ainvoke({"messages": [HumanMessage(text)]}))["messages"][-1].text

    return StructuredTool.from_function(ask, aask, name="judge")


@case("9 a sub-agent of the same model", writes, "Done.", ["judge", "writer"])
def same_model(model, asked):
    judge = create_agent(model, [], system_prompt="You judge.", name="judge")
    return create_agent(model, [judge_tool(judge)], name="writer")


@case("9 a sub-agent of another model", writes, "Done.", ["writer"])
def another_model(model, asked):
    judge = create_agent(GenericFakeChatModel(messages=iter([AIMessage("Good.")])), [], name="judge")
    return create_agent(model, [judge_tool(judge)], name="writer")


# 10: histories that are rewritten


def sums_up(heard):
    return "They talked." if "extract" in heard.lower() else f"Answer {heard.count('user')}."


@case(
    "10 a history that is summed up",
    sums_up,
    "Answer 2.",
    ["desk", "desk", "summarization"],
    lines=["One?", "Two?", "Three?"],
)
def summed_up(model, asked):
    shorten = SummarizationMiddleware(model, trigger=("messages", 4), keep=("messages", 2))
    return create_agent(model, [], middleware=[shorten], name="desk")


def looks_up_three(heard):
    number = heard.count("<tool_call>")
    return call("lookup", order=f"A{number}") if number < 3 else "All are packed."


@case("10 a history whose tool results are cleared", looks_up_three, "All are packed.", ["model"] * 2)
def cleared(model, asked):
    edit = ClearToolUsesEdit(trigger=60, keep=1)
    return create_agent(model, [lookup], middleware=[ContextEditingMiddleware(edits=[edit])])


# 11: a call that failed has no tokens, and the next one goes on from where it was


def coughs(heard, failed: list[int] = []):  # noqa: B006
    failed.append(1)
    if len(failed) % 2:
        raise OSError("the engine coughs")
    return "Well."


@case("11 a call that is tried again", coughs, "Well.", ["model"])
def tried_again(model, asked):
    return create_agent(model, [], middleware=[ModelRetryMiddleware(max_retries=2, initial_delay=0.0)])


@case("11 a fallback", coughs, "Well.", ["model"])
def fallback(model, asked):
    return create_agent(model, [], middleware=[ModelFallbackMiddleware(model)])


# 12 and 13: checkpoints


@tool
def cancel(order: str) -> str:
    """Cancel an order."""
    return f"the user says {interrupt(f'Cancel {order}?')}"


def cancels(heard):
    return "Cancelled." if "says yes" in heard else call("cancel", order="A12")


@case("12 interrupt and resume", cancels, "Cancelled.", ["model"], lines=["Cancel A12", "yes"])
def interrupted(model, asked):
    return create_agent(model, [cancel], checkpointer=InMemorySaver())


@case("13 a checkpoint that is played again", hello, "Hello there.", ["model"] * 2)
def played_again(model, asked):
    inner = create_agent(model, [], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "inner"}}

    def before(past):
        return next(item.config for item in past if item.next == ("model",))

    async def awaited(state):
        await inner.ainvoke({"messages": state["messages"]}, config)
        return await inner.ainvoke(None, before([item async for item in inner.aget_state_history(config)]))

    def called(state):
        inner.invoke({"messages": state["messages"]}, config)
        return inner.invoke(None, before(inner.get_state_history(config)))

    return RunnableLambda(called, awaited)


# 14: tools of an MCP server


@case(
    "14 MCP tools",
    lambda heard: "It is 5." if "5" in heard else call("add", a=2, b=3),
    "It is 5.",
    ["model"],
    ways=["ainvoke", "astream"],  # LangChain's adapter makes coroutines alone
)
def mcp_tools(model, asked):
    server = MCPServer("small", log_level="ERROR")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    async def ask(**arguments):
        async with Client(server) as client:
            result = await client.call_tool("add", arguments)
        return result.content[0].text, result.structured_content

    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    made = StructuredTool(
        name="add",
        description="Add two numbers.",
        args_schema=schema,
        coroutine=ask,
        response_format="content_and_artifact",
    )
    return create_agent(model, [made])


# 15: two trained roles beside a fixed judge


@case(
    "15 a policy, a fixed judge and a second trained role",
    lambda heard: "Fine." if "Draft" in heard else "Draft.",
    "Draft. Fine. Good.",
    ["critic", "writer"],
    weights={"writer": 1.0, "critic": 0.5},
)
def three_roles(model, asked):
    judge = GenericFakeChatModel(messages=iter([AIMessage("Good.")]))
    writer, critic = (create_agent(model, [], name=name) for name in ("writer", "critic"))
    judged = RunnableLambda(lambda state: state["messages"]) | judge
    return graph_of(
        writer=writer,
        critic=critic,
        judge=judged | (lambda said: {"messages": [said]}),
        end=lambda state: {"messages": [AIMessage(" ".join(said.text for said in state["messages"][1:]))]},
    )


# 16: threads


@case("16 a sync app in threads", about, "About one. About two.", ["", ""], ways=["invoke", "stream"])
def in_threads(model, asked):
    def work(_):
        with ContextThreadPoolExecutor() as threads:
            return " ".join(said.text for said in threads.map(asked.invoke, ["one", "two"]))

    return RunnableLambda(work)


@case(
    "16 a bare thread",
    hello,
    "",
    status="failed",
    error="in a thread that does not know its episode",
    ways=["invoke", "stream"],
)
def bare_thread(model, asked):
    def work(given):
        failed = []

        def ask():
            try:
                asked.invoke(given["messages"])
            except Exception as problem:
                failed.append(problem)

        model.invoke(given["messages"])
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        raise failed[0]

    return RunnableLambda(work)


# 17: apps that end otherwise


def ends_with(act):
    return lambda model, asked: graph_of(ask=node_of(asked), act=RunnableLambda(lambda _: act()))


case("17 an app that raises", hello, "", ["ask"], status="failed", error="ZeroDivisionError")(
    ends_with(lambda: 1 / 0)
)
case(
    "17 an app that hangs",
    hello,
    "",
    ["ask"],
    status="failed",
    error="the episode took more than",
    ways=["ainvoke", "stream"],
)(ends_with(lambda: time.sleep(0.6)))


@case(
    "17 the recursion limit",
    lambda heard: call("lookup", order="A12"),
    "",
    ["model"],
    status="truncated",
)
def recursion_limit(model, asked):
    return create_agent(model, [lookup]).with_config(recursion_limit=5)


# 18 and 19: apps that were made before, and found by name


@case("18 a graph of a module, unchanged", looks_up, "It is packed.", ["desk"], redirected=True)
def module_level(model, asked):
    return GRAPH


@case("19 langgraph.json", hello, "Hello there.", ["model"])
def langgraph_json(model, asked):
    return load_app(AppUse(name="langgraph.json#desk", folder=str(FOLDER))).build(model)


FOLDER = Path(__file__).parent / "langgraph_app"


# 20: tracers


class Traced(BaseCallbackHandler):
    """As tracers do, it hears of every model call."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []

    def on_chat_model_start(self, serialized, messages, *, run_id, **kwargs):
        self.begun.append(run_id)

    def on_llm_end(self, response, *, run_id, **kwargs):
        self.ended.append(run_id)


@case("20 tracing on", looks_up, "It is packed. 2 calls were traced.", ["desk"])
def traced(model, asked):
    heard = Traced()

    def told(state):
        assert len(set(heard.begun)) == len(heard.begun)
        assert sorted(heard.begun) == sorted(heard.ended)
        said = f"{state['messages'][-1].text} {len(heard.begun)} calls were traced."
        return {"messages": [AIMessage(said)]}

    desk = create_agent(model, [lookup], name="desk")
    return graph_of(desk=desk, told=told).with_config(callbacks=[heard])


def assert_trained_once(backend, trajectory, cut):
    """Each answer in the log is in one row of what is trained, except for ``cut`` of them."""
    scored = replace(trajectory, reward=1.0)
    rows = make_rows(scored, end_id=1)
    in_rows = [token for row in rows for token, own in zip(row.completion_ids, row.mask, strict=True) if own]
    left = [s for s in trajectory.ledger.sequences if s.weight == 0.0]
    assert len(left) == cut
    not_trained = [token for s in left for token, own in zip(s.ids, s.mask, strict=True) if own]
    assert Counter(in_rows) + Counter(not_trained) == Counter(i for _, ids in backend.log for i in ids)


@pytest.mark.filterwarnings("ignore:.* in beta:", "ignore:The v3 streaming protocol on Pregel:")
@pytest.mark.parametrize(
    ("name", "way"), [(name, way) for name, found in CASES.items() for way in found.ways]
)
async def test_each_sampled_token_is_recorded_and_trained_once(tokens, monkeypatch, name, way):
    monkeypatch.setattr(sys, "path", list(sys.path))  # to which langgraph.json's folder is added
    played = CASES[name]
    plain = tokens(played.script)
    backend = type("Structured", (type(plain),), {"capabilities": plain.capabilities | {"structured"}})(
        plain.tokenizer, played.script
    )
    agent = agent_of(backend, app_of(lambda model: Called(played.build(model, Called(model, way)), way)))
    agent = replace(agent, weights=played.weights)
    backend.pause = 4 if played.cut else None
    redirect = Redirect(["openai:gpt-5-mini"], agent.model)
    if played.redirected:
        redirect.install()
    try:
        trajectory = await episode(agent, *played.lines, seconds=0.4 if "hangs" in name else 30.0)
    finally:
        redirect.restore()

    assert trajectory.status == played.status, trajectory.error
    assert played.error in (trajectory.error or "")
    if played.status == "completed":
        assert same(trajectory.final_text, played.answer)
    assert_exact(backend, trajectory)
    assert sorted(sequence.role for sequence in trajectory.ledger.sequences) == sorted(played.roles)
    if not played.cut:
        assert trajectory.ledger.sampled == sum(turn.completion_tokens for turn in trajectory.turns)
    if played.status != "failed":
        assert_trained_once(backend, trajectory, played.cut)


def same(text: str, expected: str) -> bool:
    return text == expected or json.loads(text) == json.loads(expected)


def test_no_case_is_left_out():
    assert {int(name.split()[0]) for name in CASES} == set(range(1, 21))
