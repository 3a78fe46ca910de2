"""Apps of LangChain and LangGraph, written as their documentation writes them, on ``ChatGrpo``."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelCallLimitMiddleware, SummarizationMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from grpo_host.langchain import ChatGrpo
from grpo_sdk import Capability

WAYS = ["invoke", "ainvoke", "stream", "astream"]


async def last_state(graph: Any, way: str, given: Any, config: Any = None) -> Any:
    """What ``graph`` comes to, asked in one of the four ways."""
    if way == "invoke":
        return await asyncio.to_thread(graph.invoke, given, config)
    if way == "ainvoke":
        return await graph.ainvoke(given, config)
    if way == "stream":
        return await asyncio.to_thread(lambda: list(graph.stream(given, config, stream_mode="values"))[-1])
    return [state async for state in graph.astream(given, config, stream_mode="values")][-1]


async def whole(runnable: Any, way: str, given: Any) -> Any:
    """What ``runnable`` gives, asked in one of the four ways."""
    if way == "invoke":
        return await asyncio.to_thread(runnable.invoke, given)
    if way == "ainvoke":
        return await runnable.ainvoke(given)
    if way == "stream":
        chunks = await asyncio.to_thread(lambda: list(runnable.stream(given)))
    else:
        chunks = [chunk async for chunk in runnable.astream(given)]
    return sum(chunks[1:], chunks[0]) if not isinstance(chunks[0], str) else "".join(chunks)


def asking(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def call(name: str, arguments: str = "{}") -> str:
    """A tool call as the scripted model writes it."""
    return f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'


def find_order(order_id: str) -> str:
    """Find an order."""
    return f"{order_id} is on its way"


def shop(heard: str) -> str:
    """A model that looks an order up, and then says what it has found."""
    if "<tool_response>" in heard:
        return heard.rsplit("<tool_response>", 1)[1].split("</tool_response>")[0]
    return call("find_order", '{"order_id": "N1"}')


@pytest.mark.parametrize("way", WAYS)
async def test_an_agent_without_tools_answers(tokens, way):
    agent = create_agent(ChatGrpo(backend=tokens(lambda heard: "Hello!")), system_prompt="Be kind.")

    assert (await last_state(agent, way, asking("Hi")))["messages"][-1].text == "Hello!"


@pytest.mark.parametrize("way", WAYS)
async def test_an_agent_calls_its_tools_and_answers(tokens, way):
    backend = tokens(shop)
    agent = create_agent(ChatGrpo(backend=backend), tools=[find_order])

    said = (await last_state(agent, way, asking("Where is N1?")))["messages"]

    assert [message.type for message in said] == ["human", "ai", "tool", "ai"]
    assert said[-1].text == "N1 is on its way"
    assert len(backend.sampled) == 2


@pytest.mark.parametrize("way", WAYS)
async def test_tools_of_one_message_are_called_side_by_side(tokens, way):
    def script(heard):
        if "<tool_response>" in heard:
            return f"{heard.count('is on its way')} orders"
        return "".join(call("find_order", f'{{"order_id": "N{n}"}}') for n in (1, 2, 3))

    agent = create_agent(ChatGrpo(backend=tokens(script)), tools=[find_order])

    assert (await last_state(agent, way, asking("Where are they?")))["messages"][-1].text == "3 orders"


class Order(BaseModel):
    """What became of an order."""

    order_id: str
    arrived: bool


@pytest.fixture
def constrained(tokens):
    """``constrained(script)`` makes a backend that can be held to a schema; its script keeps to it."""

    def make(script):
        backend = tokens(script)
        backend.capabilities = backend.capabilities | {Capability.STRUCTURED}
        return backend

    return make


@pytest.mark.parametrize("way", WAYS)
async def test_an_agent_ends_with_a_structured_answer_by_a_tool_tried_again_after_an_error(constrained, way):
    def script(heard):
        arrived = '"perhaps"' if "Error" not in heard else "false"
        return call("Order", f'{{"order_id": "N1", "arrived": {arrived}}}')

    backend = constrained(script)
    agent = create_agent(ChatGrpo(backend=backend), tools=[], response_format=ToolStrategy(Order))

    state = await last_state(agent, way, asking("Where is N1?"))

    assert state["structured_response"] == Order(order_id="N1", arrived=False)
    assert len(backend.sampled) == 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("response_format", [ProviderStrategy(Order), Order], ids=["provider", "automatic"])
async def test_an_agent_ends_with_a_structured_answer_of_the_model_itself(constrained, way, response_format):
    def script(heard):
        if "<tool_response>" in heard:
            return '{"order_id": "N1", "arrived": false}'
        return call("find_order", '{"order_id": "N1"}')

    backend = constrained(script)
    agent = create_agent(ChatGrpo(backend=backend), tools=[find_order], response_format=response_format)

    state = await last_state(agent, way, asking("Where is N1?"))

    assert state["structured_response"] == Order(order_id="N1", arrived=False)
    assert len(backend.sampled) == 2


@pytest.mark.parametrize("way", WAYS)
async def test_a_chain_of_prompt_model_and_parser_gives_a_text(tokens, way):
    prompt = ChatPromptTemplate.from_messages([("system", "Translate."), ("human", "{word}")])
    chain = prompt | ChatGrpo(backend=tokens(lambda heard: "Haus Hof")) | StrOutputParser()

    assert await whole(chain, way, {"word": "house"}) == "Haus Hof"


@pytest.mark.parametrize("way", WAYS)
async def test_branches_run_side_by_side_on_one_model(tokens, way):
    model = ChatGrpo(backend=tokens(lambda heard: "left" if "go left" in heard else "right"))
    branches = RunnableParallel(
        a=(lambda _: "go left") | model | StrOutputParser(),
        b=(lambda _: "go right") | model | StrOutputParser(),
    )

    assert await whole(branches, way, "x") == {"a": "left", "b": "right"}


def echo(heard: str) -> str:
    """What the last user said, in capitals."""
    return heard.rsplit("<|im_start|>user\n", 1)[1].split("<|im_end|>")[0].upper()


def test_a_batch_in_threads_answers_each_of_its_questions(tokens):
    model = ChatGrpo(backend=tokens(echo))
    words = [f"word {number}" for number in range(64)]

    answers = model.batch(words, {"max_concurrency": 16})

    assert [answer.text for answer in answers] == [word.upper() for word in words]


async def test_64_agents_at_once_on_one_model_hear_only_themselves(tokens):
    def script(heard):
        name = heard.rsplit("I am ", 1)[1].split(".")[0]
        if "<tool_response>" in heard:
            return f"{name}: {heard.rsplit('<tool_response>', 1)[1].split('</')[0]}"
        return call("find_order", f'{{"order_id": "{name}"}}')

    agent = create_agent(ChatGrpo(backend=tokens(script)), tools=[find_order])

    states = await asyncio.gather(*(agent.ainvoke(asking(f"I am {n}.")) for n in range(64)))

    assert [s["messages"][-1].text for s in states] == [f"{n}: {n} is on its way" for n in range(64)]


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_a_graphs_streams_show_the_models_pieces_the_updates_and_what_a_tool_writes(tokens, way):
    def find_loudly(order_id: str) -> str:
        """Find an order."""
        get_stream_writer()("looking")
        return find_order(order_id)

    def script(heard):
        return shop(heard).replace("find_order", "find_loudly")

    agent = create_agent(ChatGrpo(backend=tokens(script)), tools=[find_loudly])
    modes = ["messages", "updates", "custom"]

    if way == "stream":
        items = await asyncio.to_thread(lambda: list(agent.stream(asking("Where?"), stream_mode=modes)))
    else:
        items = [item async for item in agent.astream(asking("Where?"), stream_mode=modes)]

    pieces = [part[0] for mode, part in items if mode == "messages" and isinstance(part[0], AIMessageChunk)]
    assert "".join(piece.text for piece in pieces) == "N1 is on its way"
    assert [c["name"] for piece in pieces for c in piece.tool_call_chunks] == ["find_loudly"]
    assert [list(part) for mode, part in items if mode == "updates"] == [["model"], ["tools"], ["model"]]
    assert [part for mode, part in items if mode == "custom"] == ["looking"]


async def test_events_tell_of_the_model_from_its_beginning_to_its_end(tokens):
    agent = create_agent(ChatGrpo(backend=tokens(shop)), tools=[find_order])

    events = [event async for event in agent.astream_events(asking("Where?"), version="v2")]

    of_model = [event for event in events if event["event"].startswith("on_chat_model")]
    kinds = [event["event"].removeprefix("on_chat_model_") for event in of_model]
    assert kinds.count("start") == kinds.count("end") == 2
    assert kinds.count("stream") >= 3
    assert of_model[-1]["data"]["output"].text == "N1 is on its way"
    assert of_model[0]["metadata"]["ls_model_name"] == "scripted-tokens"


def test_a_model_that_is_the_fallback_of_another_answers_in_its_place(fakes, tokens):
    broken = ChatGrpo(backend=fakes.TokenBackend(fakes.PieceTokenizer(), RuntimeError("broke")))

    assert (
        broken.with_fallbacks([ChatGrpo(backend=tokens(lambda heard: "Here."))]).invoke("Hi").text == "Here."
    )


def test_a_long_conversation_is_summarized_by_the_middleware(tokens):
    def script(heard):
        return "They talked." if "Respond ONLY" in heard else f"{heard.count('They talked.')} summary"

    model = ChatGrpo(backend=tokens(script))
    shorten = SummarizationMiddleware(model, trigger=("fraction", 0.02), keep=("messages", 1))
    agent = create_agent(model, middleware=[shorten])

    state = agent.invoke({"messages": [HumanMessage("word " * 600), HumanMessage("And now?")]})

    assert state["messages"][-1].text == "1 summary"


def test_the_middleware_that_counts_calls_of_the_model_ends_a_loop(tokens):
    backend = tokens(lambda heard: call("find_order", '{"order_id": "N1"}'))
    limit = ModelCallLimitMiddleware(run_limit=3, exit_behavior="end")

    create_agent(ChatGrpo(backend=backend), tools=[find_order], middleware=[limit]).invoke(asking("Loop!"))

    assert len(backend.sampled) == 3


class Words(TypedDict):
    """The state of a graph that has each word worked on by a branch of its own."""

    words: list[str]
    said: Annotated[list[str], operator.add]


@pytest.mark.parametrize("way", WAYS)
async def test_a_graph_sends_each_word_to_the_model_and_gathers_the_answers(tokens, way):
    model = ChatGrpo(backend=tokens(echo))

    def shout(state):
        return {"said": [model.invoke(state["word"]).text]}

    graph = StateGraph(Words)
    graph.add_node("shout", shout)
    graph.add_conditional_edges(START, lambda state: [Send("shout", {"word": w}) for w in state["words"]])
    graph.add_edge("shout", END)

    state = await last_state(graph.compile(), way, {"words": ["a", "b", "c"], "said": []})

    assert sorted(state["said"]) == ["A", "B", "C"]


async def test_an_agent_that_waits_for_a_person_goes_on_where_it_was(tokens):
    def ask_human(question: str) -> str:
        """Ask a person."""
        return str(interrupt(question))

    def script(heard):
        return shop(heard) if "<tool_response>" in heard else call("ask_human", '{"question": "Which?"}')

    backend = tokens(script)
    agent = create_agent(ChatGrpo(backend=backend), tools=[ask_human], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}

    waiting = await agent.ainvoke(asking("Help"), config)
    assert waiting["__interrupt__"][0].value == "Which?"
    done = await agent.ainvoke(Command(resume="N7"), config)

    assert done["messages"][-1].text == "N7"
    assert len(backend.sampled) == 2


@pytest.mark.parametrize("way", WAYS)
async def test_a_subgraph_with_a_model_of_its_own_works_as_a_node(tokens, way):
    inner = create_agent(ChatGrpo(backend=tokens(lambda heard: "inner")), name="inner")
    outer = ChatGrpo(backend=tokens(lambda heard: f"outer heard {heard.count('inner')}"))
    graph = StateGraph(MessagesState)
    graph.add_node("inner", inner)
    graph.add_node("outer", lambda state: {"messages": [outer.invoke(state["messages"])]})
    graph.add_edge(START, "inner")
    graph.add_edge("inner", "outer")

    state = await last_state(graph.compile(), way, asking("Hi"))

    assert state["messages"][-1].text == "outer heard 1"
