from __future__ import annotations

import asyncio
import sys

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from grpo_host.backends.local_model import LocalModel
from grpo_host.chat.sql_store import SqlStore
from grpo_host.langchain import ChatGrpo, GrpoAgent
from grpo_host.langchain import agent as agent_module
from grpo_sdk import ConfigError, assistant, tool_call
from grpo_sdk.errors import RunError
from grpo_sdk.testing import ScriptedBackend

THREAD = {"configurable": {"thread_id": "t1"}}


def find_order(order_id: str) -> str:
    """Find an order."""
    return f"{order_id} is on its way"


def looks_up(messages, tools):
    """Looks an order up, then says what it has found."""
    if messages[-1]["role"] == "tool":
        return messages[-1]["content"]
    return assistant("I look.", [tool_call("find_order", '{"order_id": "N1"}', "")])


def counts(messages, tools):
    """Says how many messages of users it has heard."""
    return f"message {sum(message['role'] == 'user' for message in messages)}"


def agent(script, **parts):
    return GrpoAgent(LocalModel("any", backend=ScriptedBackend(script=script)), name="shop", **parts)


async def gathered(stream):
    return [piece async for piece in stream]


async def test_an_agent_uses_its_tools_and_answers_in_each_of_the_four_ways():
    shop = agent(looks_up, tools=[find_order])

    assert (await asyncio.to_thread(shop.invoke, "Where is N1?")).text == "N1 is on its way"
    assert (await shop.ainvoke("Where is N1?")).text == "N1 is on its way"
    streamed = await asyncio.to_thread(lambda: list(shop.stream("Where is N1?")))
    for pieces in (streamed, await gathered(shop.astream("Where is N1?"))):
        assert "".join(piece.text for piece in pieces) == "I look.\n\nN1 is on its way"
        assert pieces[-1].chunk_position == "last"
        assert pieces[-1].response_metadata["finish_reason"] == "stop"


def test_a_batch_is_answered_in_its_order():
    shop = agent(lambda messages, tools: messages[-1]["content"].upper())

    assert [answer.text for answer in shop.batch(["a", "b", "c"])] == ["A", "B", "C"]


async def test_a_state_is_given_back_with_all_that_was_said():
    shop = agent(looks_up, tools=[find_order])
    state = {"messages": [HumanMessage("Where is N1?")], "customer": 7}

    found = await shop.ainvoke(state)

    assert found["customer"] == 7
    assert [type(message) for message in found["messages"]] == [
        HumanMessage,
        AIMessage,
        ToolMessage,
        AIMessage,
    ]
    assert found["messages"][1].tool_calls[0]["args"] == {"order_id": "N1"}
    assert [s["messages"][-1].text for s in await gathered(shop.astream(state))] == ["N1 is on its way"]


def test_history_and_prompts_are_heard_whole():
    shop = agent(counts)
    prompt = ChatPromptTemplate.from_messages([("human", "{word}"), ("ai", "yes?"), ("human", "{word}")])

    assert shop.invoke([("human", "a"), ("ai", "b"), ("human", "c")]).text == "message 2"
    assert (prompt | shop).invoke({"word": "x"}).text == "message 2"


async def test_a_thread_goes_on_with_its_conversation():
    shop = agent(counts)

    said = [
        (await shop.ainvoke("Hi", THREAD)).text,
        (await asyncio.to_thread(shop.invoke, "Hi", THREAD)).text,
        "".join([piece.text async for piece in shop.astream("Hi", THREAD)]),
        await asyncio.to_thread(lambda: "".join(piece.text for piece in shop.stream("Hi", THREAD))),
        (await (await shop.astream_events("Hi", THREAD, version="v3"))).text,
    ]
    other = await shop.ainvoke("Hi", {"configurable": {"thread_id": 2}})

    assert said == [f"message {number}" for number in range(1, 6)]
    assert other.text == "message 1"


async def test_a_thread_in_a_database_outlives_the_agent(tmp_path):
    store = SqlStore.sqlite(tmp_path / "threads.db")
    try:
        await agent(counts, store=store).ainvoke("Hi", THREAD)

        assert (await agent(counts, store=store).ainvoke("Hi", THREAD)).text == "message 2"
    finally:
        await store.close()


def test_threads_that_are_kept_in_memory_are_bounded(monkeypatch):
    monkeypatch.setattr(agent_module, "MOST_THREADS", 2)
    shop = agent(counts)
    for thread in ("a", "b", "a", "c"):
        shop.invoke("Hi", {"configurable": {"thread_id": thread}})

    said = {t: shop.invoke("Hi", {"configurable": {"thread_id": t}}).text for t in ("a", "b")}

    assert said == {"a": "message 3", "b": "message 1"}


def test_a_thread_is_told_one_new_message():
    with pytest.raises(ConfigError, match='the conversation of the thread "t1" is kept here'):
        agent(counts).invoke([("human", "a"), ("ai", "b"), ("human", "c")], THREAD)


@pytest.mark.parametrize(
    ("given", "kwargs", "message"),
    [
        ({"question": "?"}, {}, "a state has the key messages; the keys of this one: question"),
        ("Hi", {"temperature": 1}, "a GrpoAgent takes no temperature"),
    ],
)
def test_what_an_agent_cannot_be_asked_is_refused(given, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        agent(counts).invoke(given, **kwargs)


def test_inside_of_a_graph_the_thread_is_the_graphs():
    graph = StateGraph(MessagesState)
    graph.add_node("shop", agent(counts))
    graph.add_edge(START, "shop")
    app = graph.compile(checkpointer=InMemorySaver())

    said = [app.invoke({"messages": [("human", "Hi")]}, THREAD)["messages"][-1].text for _ in range(3)]

    assert said == ["message 1", "message 2", "message 3"]


class Heard(BaseCallbackHandler):
    """Notes what it is told, with the names of runs."""

    def __init__(self):
        self.events = []
        self.metadata = []

    def on_chain_start(self, serialized, inputs, *, name=None, metadata=None, tags=None, **kwargs):
        self.events.append(f"chain {name}")
        self.metadata.append((metadata, tags))

    def on_chat_model_start(self, serialized, messages, *, name=None, metadata=None, **kwargs):
        self.events.append(f"model {name} {messages[0][-1].type}")
        self.metadata.append((metadata, None))

    def on_llm_end(self, response, **kwargs):
        self.events.append(f"said {response.generations[0][0].message.text}")

    def on_llm_error(self, error, **kwargs):
        self.events.append(f"failed {error}")

    def on_tool_start(self, serialized, input_str, *, name=None, inputs=None, **kwargs):
        self.events.append(f"tool {name or serialized['name']} {inputs}")

    def on_tool_end(self, output, **kwargs):
        self.events.append(f"tool said {getattr(output, 'content', output)}")

    def on_tool_error(self, error, **kwargs):
        self.events.append(f"tool failed {error}")


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream", "astream_events v3"])
async def test_callbacks_are_told_of_each_model_call_and_each_tool_once(way):
    heard, shop = Heard(), agent(looks_up, tools=[find_order])
    config = {"callbacks": [heard], "tags": ["mine"], "metadata": {"customer": 7}}

    if way == "invoke":
        await asyncio.to_thread(shop.invoke, "Where?", config)
    elif way == "ainvoke":
        await shop.ainvoke("Where?", config)
    elif way == "stream":
        await asyncio.to_thread(lambda: list(shop.stream("Where?", config)))
    elif way == "astream":
        await gathered(shop.astream("Where?", config))
    else:
        await (await shop.astream_events("Where?", config, version="v3"))

    assert heard.events == [
        "chain shop",
        "model ChatGrpo human",
        "said I look.",
        "tool find_order {'order_id': 'N1'}",
        "tool said N1 is on its way",
        "model ChatGrpo tool",
        "said N1 is on its way",
    ]
    metadata, tags = heard.metadata[0]
    assert (metadata["customer"], metadata["lc_agent_name"], tags) == (7, "shop", ["mine"])
    assert heard.metadata[1][0]["ls_model_name"] == "scripted"


def test_a_tool_that_langchain_runs_itself_is_told_of_once():
    @tool(response_format="content_and_artifact")
    def find_order(order_id: str):
        """Find an order."""
        return f"{order_id} found", {"raw": 1}

    heard = Heard()

    agent(looks_up, tools=[find_order]).invoke("Where?", {"callbacks": [heard]})

    assert [event for event in heard.events if event.startswith("tool")] == [
        "tool find_order {'order_id': 'N1'}",
        "tool said N1 found",
    ]


def test_a_failure_of_a_tool_or_model_is_told_as_one():
    def breaks(messages, tools):
        if messages[-1]["role"] == "tool":
            raise RuntimeError("the model broke")
        return assistant("", [tool_call("find_order", "{}", "")])

    heard = Heard()

    with pytest.raises(RuntimeError, match="the model broke"):
        agent(breaks, tools=[find_order]).invoke("Where?", {"callbacks": [heard]})

    assert "tool failed invalid arguments for find_order: order_id: Field required" in heard.events
    assert "failed the model broke" in heard.events


async def test_events_tell_of_the_agent_its_model_and_its_tools_as_they_work():
    shop = agent(looks_up, tools=[find_order])

    events = [event async for event in shop.astream_events("Where?", version="v2")]

    kinds = [event["event"] for event in events]
    assert kinds[0] == "on_chain_start"
    assert kinds[-1] == "on_chain_end"
    assert kinds.count("on_chat_model_start") == kinds.count("on_chat_model_end") == 2
    assert kinds.count("on_tool_start") == kinds.count("on_tool_end") == 1
    pieces = [e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream"]
    assert "".join(pieces) == "I look.N1 is on its way"


async def test_events_v3_tell_of_the_answer_from_its_start_to_its_end():
    shop, said = agent(looks_up, tools=[find_order]), "I look.\n\nN1 is on its way"

    stream = await shop.astream_events("Where?", version="v3")
    pieces, kinds = await asyncio.gather(gathered(stream.text), gathered(stream))
    told = shop.stream_events([("human", "Where?")], version="v3")

    assert "".join(pieces) == said
    assert len(pieces) > 2
    assert [kinds[0]["event"], kinds[-1]["event"]] == ["message-start", "message-finish"]
    assert (await stream.output).text == (await stream).text == said
    assert "".join(await asyncio.to_thread(lambda: list(told.text))) == told.output.text == said
    assert told.output.response_metadata["finish_reason"] == "stop"


async def test_events_v3_of_an_answer_that_fails_raise_what_failed():
    def breaks(messages, tools):
        raise RuntimeError("the model broke")

    stream = await agent(breaks).astream_events("Where?", version="v3")
    with pytest.raises(RuntimeError, match="the model broke"):
        await stream
    with pytest.raises(RuntimeError, match="the model broke"):
        list(agent(breaks).stream_events("Where?", version="v3").text)


async def test_events_v3_that_are_left_half_way_end_the_answer():
    async with await GrpoAgent(LocalModel("any", backend=Slow())).astream_events(
        "Hi", version="v3"
    ) as stream:
        assert await anext(aiter(stream.text)) == "Well"

    with pytest.raises(asyncio.CancelledError):
        await stream.output


async def test_events_v3_of_a_state_are_refused():
    with pytest.raises(ConfigError, match="version v3 tell of one message"):
        await agent(counts).astream_events({"messages": []}, version="v3")


async def test_a_langchain_core_without_events_v3_is_named_when_they_are_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "langchain_core.language_models._compat_bridge", None)
    monkeypatch.delitem(sys.modules, "grpo_host.langchain.events", raising=False)
    monkeypatch.delattr("grpo_host.langchain.events", raising=False)
    with pytest.raises(ConfigError, match=r"another langchain-core than 1\.\S+: pip install -U"):
        agent(counts).stream_events("Hi", version="v3")
    with pytest.raises(ConfigError, match="or ask for version v2"):
        await agent(counts).astream_events("Hi", version="v3")


async def test_a_graph_streams_what_its_agent_says_as_it_comes():
    graph = StateGraph(MessagesState)
    graph.add_node("shop", agent(looks_up, tools=[find_order]))
    graph.add_edge(START, "shop")
    app, given = graph.compile(), {"messages": [("human", "Where?")]}

    pieces = [part async for part, _ in app.astream(given, stream_mode="messages")]

    assert [piece.text for piece in pieces if piece.type == "tool"] == ["N1 is on its way"]
    own = [piece.text for piece in pieces if piece.type != "tool"]
    assert own == ["I", " look.", "N1", " is", " on", " its", " way"]


@pytest.mark.filterwarnings("ignore:The v3 streaming protocol on Pregel")
async def test_a_graphs_events_v3_have_each_message_of_its_agent_once():
    graph = StateGraph(MessagesState)
    graph.add_node("shop", agent(looks_up, tools=[find_order]))
    graph.add_edge(START, "shop")

    run = await graph.compile().astream_events({"messages": [("human", "Where?")]}, version="v3")

    assert [await message.text async for message in run.messages] == ["I look.", "N1 is on its way"]
    assert (await run.output())["messages"][-1].text == "N1 is on its way"


async def test_an_agent_is_a_tool_of_another():
    def asks(messages, tools):
        if messages[-1]["role"] == "tool":
            return messages[-1]["content"]
        return assistant("", [tool_call("shop", '{"message": "Where is N1?"}', "")])

    helper = agent(looks_up, tools=[find_order]).as_tool(description="Knows all orders.")
    outer = create_agent(ChatGrpo(backend=ScriptedBackend(script=asks)), tools=[helper])

    state = await outer.ainvoke({"messages": [("human", "Where?")]})

    assert helper.description == "Knows all orders."
    assert state["messages"][-1].text == "N1 is on its way"
    assert helper.invoke({"message": "Where?"}) == "N1 is on its way"


def test_the_arguments_of_an_agents_tool_are_its_own():
    with pytest.raises(ConfigError, match="takes a message; leave out args_schema"):
        agent(counts).as_tool(arg_types={"x": int})


class Slow(ScriptedBackend):
    async def chat(self, messages, sampling, tools=()):
        self.begun = asyncio.get_running_loop().time()
        await asyncio.sleep(600)

    async def stream(self, messages, sampling, tools=()):
        yield "Well"
        yield await self.chat(messages, sampling, tools)


async def test_a_stream_that_is_left_half_way_ends_the_answer():
    stream = GrpoAgent(LocalModel("any", backend=Slow())).astream("Hi")
    assert (await anext(stream)).text == "Well"

    await asyncio.wait_for(stream.aclose(), 60)


async def test_the_agent_of_an_agent_yaml_has_its_instructions_tools_and_limits(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text(
        "name: counter\nmodel: {name: any, context: 300}\n"
        "backend: {name: scripted, options: {replies: [Good day.]}}\n"
        "environment: arithmetic\nrewards: [task_success]\n"
        "agent: {system_prompt: Be brief., tools: [calculator], limits: {turns: 3}}\n"
    )

    made = GrpoAgent.from_yaml(path)

    assert made.invoke("Hi").text == "Good day."
    assert made.name == "counter"
    assert made.limits.turns == 3
    assert "calculator" in made._chat.tools
    ready = await made._chat.ready()
    assert ready.strategy.system_prompt == "Be brief."
    await made.aclose()


def test_a_directory_that_is_no_run_has_no_agent(tmp_path):
    with pytest.raises(RunError, match="is no directory of a run"):
        GrpoAgent.from_run(tmp_path)
