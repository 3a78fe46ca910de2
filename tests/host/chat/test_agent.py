from __future__ import annotations

import asyncio
import gc
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest

from grpo_host.agents.agent import Agent, AgentLimits, TurnLimitError
from grpo_host.agents.rendering.template import TemplateRenderer
from grpo_host.backends.local_model import LocalModel
from grpo_host.cache import MemoryCache, cacheable
from grpo_host.chat.agent import ChatAgent
from grpo_host.chat.sql_store import SqlStore
from grpo_host.chat.store import ConflictError, ConversationNotFoundError, ConversationRecord, MemoryStore
from grpo_host.dialogues import DialogueDatabase
from grpo_sdk import Capability, ConfigError, Sampling, Strategy, ToolBundle, assistant, tool_call, user
from grpo_sdk.errors import CapabilityError, PluginError
from grpo_sdk.testing import ScriptedBackend
from grpo_sdk.tools import MALFORMED_CALL


def calls(*named):
    return assistant("", [tool_call(name, text, f"call_{i}") for i, (name, text) in enumerate(named)])


async def look_up(order: str) -> str:
    """Look up an order."""
    return f"{order} is on its way"


def where_is(order):
    """A script: looks ``order`` up and says what came of it."""

    def script(messages, tools):
        if messages[-1]["role"] == "tool":
            return messages[-1]["content"]
        return calls(("look_up", f'{{"order": "{order}"}}')) if tools else "No idea."

    return script


def test_a_conversation_goes_on(chat):
    talk = chat()
    assert [talk.say("one"), talk.say("two")] == ["to one", "to two"]
    assert talk.history == [user("one"), assistant("to one"), user("two"), assistant("to two")]
    assert talk.shown[1] == talk.history[:3]


@pytest.mark.slow
async def test_conversations_do_not_mix_and_each_is_in_order():
    """1,000 at once, in each three messages that do not wait for one another."""

    def script(messages, tools):
        said = [m["content"] for m in messages if m["role"] == "user"]
        return " then ".join(said)

    agent = ChatAgent(Agent(ScriptedBackend(script=script, latency=0.001)))

    async def talk(number):
        context = await agent.start_conversation(str(number), {"number": number})
        said = [f"{number}.{part}" for part in range(3)]
        answers = await asyncio.gather(*(agent.respond(context.conversation_id, text) for text in said))
        history = await agent.history(context.conversation_id)
        assert [m["content"] for m in history if m["role"] == "user"] == said
        return answers

    answers = await asyncio.gather(*(talk(number) for number in range(1000)))
    for n, given in enumerate(answers):
        assert given == [f"{n}.0", f"{n}.0 then {n}.1", f"{n}.0 then {n}.1 then {n}.2"]
    assert not agent._turns._waiting


async def test_a_conversation_outlives_the_agent_with_its_store(tmp_path):
    seen = []
    store = SqlStore.sqlite(tmp_path / "chats.db")
    agent = ChatAgent(Agent(ScriptedBackend()), store=store)
    context = await agent.start_conversation("ann", {"topic": "shoes"}, strategy="sales")
    await agent.respond(context.conversation_id, "Hi")
    await store.close()
    conversation_id = context.conversation_id

    async def second():
        store = SqlStore.sqlite(tmp_path / "chats.db")
        backend = ScriptedBackend(script=lambda messages, tools: seen.append(messages[:]) or "Yes.")
        answer = await ChatAgent(Agent(backend), store=store).respond(conversation_id, "And?")
        await store.close()
        return answer

    assert await second() == "Yes."
    assert "sales consultant" in seen[0][0]["content"]
    assert "topic: shoes" in seen[0][0]["content"]
    assert [m["content"] for m in seen[0][1:]] == ["Hi", "Hello! How can I help you?", "And?"]


def test_an_unknown_conversation_is_named(chat):
    with pytest.raises(ConversationNotFoundError, match=r'no conversation "none"\. Start one first'):
        asyncio.run(chat().agent.respond("none", "Hi"))


@pytest.mark.parametrize("message", [None, 7, b"Hi"])
def test_a_message_is_a_text(chat, message):
    with pytest.raises(TypeError, match="a message is a text, not"):
        chat().say(message)


def test_the_initial_context_is_told_to_the_model(chat):
    talk = chat(strategy=Strategy("s", "Be kind."))
    talk.id = asyncio.run(
        talk.agent.start_conversation(context={"topic": "shoes", "sizes": [41, 42]})
    ).conversation_id
    talk.say("Hi")
    assert (
        talk.system == "Be kind.\n\nWhat you know about this conversation:\n- topic: shoes\n- sizes: [41, 42]"
    )


def test_a_context_that_json_cannot_say_is_refused(chat):
    with pytest.raises(ConfigError, match="the context of a conversation must be JSON-able"):
        asyncio.run(chat().agent.start_conversation(context={"when": object()}))


def test_a_strategy_holds_until_another_is_given(chat):
    talk = chat()
    talk.say("Hi")
    assert talk.system == ""
    talk.say("Hi", strategy="sales")
    assert "sales consultant" in talk.system
    talk.say("Hi")
    assert "sales consultant" in talk.system
    talk.say("Hi", strategy=Strategy("own", "I am my own."))
    talk.say("Hi")
    assert talk.system == "I am my own."


def test_a_strategy_of_one_conversation_does_not_change_anothers(chat):
    talk = chat()
    talk.say("Hi", strategy=Strategy("shop", "You serve shop A."))
    with pytest.raises(ConfigError, match='the strategy "shop" is another one in other conversations'):
        talk.say("Hi", strategy=Strategy("shop", "You serve shop B."))
    talk.say("Hi", strategy=Strategy("shop", "You serve shop A."))
    assert talk.system == "You serve shop A."


def test_an_unknown_strategy_is_refused_before_anything_is_said(chat):
    talk = chat()
    with pytest.raises(PluginError, match=r'no strategy "sails".*Did you mean "sales"'):
        talk.say("Hi", strategy="sails")
    assert talk.history == []


def test_a_system_prompt_of_ones_own_follows_the_strategys(chat):
    talk = chat(strategy=Strategy("s", "Be kind.", "Be brief."), system_prompt="The shop is closed.")
    talk.say("Hi")
    assert talk.system == "Be kind.\nThe shop is closed.\nBe brief."


def test_tools_are_used_in_several_rounds_and_several_at_once(chat):
    def script(messages, tools):
        results = [m["content"] for m in messages if m["role"] == "tool"]
        if not results:
            return calls(("look_up", '{"order": "A"}'), ("look_up", '{"order": "B"}'))
        return calls(("look_up", '{"order": "C"}')) if len(results) == 2 else " / ".join(results)

    talk = chat(script, tools=[look_up])
    assert talk.say("Where?") == "A is on its way / B is on its way / C is on its way"
    assert [m["role"] for m in talk.history] == [
        "user", "assistant", "tool", "tool", "assistant", "tool", "assistant",
    ]  # fmt: skip


def test_an_invalid_call_is_answered_so_that_the_model_can_correct_itself(chat):
    def script(messages, tools):
        last = messages[-1]
        if last["role"] == "user":
            return calls(("look_up", '{"number": "A"}'))
        return (
            calls(("look_up", '{"order": "A"}'))
            if "invalid arguments" in last["content"]
            else last["content"]
        )

    assert chat(script, tools=[look_up]).say("Where?") == "A is on its way"


def test_without_tools_none_are_offered(chat):
    talk = chat(where_is("A"), tools=[look_up])
    assert talk.say("Where?", use_tools=False) == "No idea."
    assert talk.say("Where?") == "A is on its way"
    assert talk.offered == [[], ["look_up"], ["look_up"]]


def test_a_strategy_chooses_among_the_tools(chat):
    def pay() -> str:
        """Pay."""
        return "paid"

    talk = chat(tools=[look_up, pay])
    talk.say("Hi", strategy=Strategy("s", tools=("pay", "fly")))
    assert talk.offered == [["pay"]]


def test_a_tool_of_the_same_name_replaces_the_other(chat):
    async def other(order: str) -> str:
        """Look elsewhere."""
        return "lost"

    talk = chat(where_is("A"), tools=[look_up])
    talk.agent.add_tool(other, name="look_up")
    assert (talk.say("Where?"), talk.agent.tools) == ("lost", ["look_up"])


@pytest.mark.parametrize(("per", "noted"), [("episode", ["1", "1"]), ("run", ["1", "2"])])
async def test_a_bundle_is_opened_for_each_answer_or_once_and_closed(chat, per, noted):
    closed = []

    @asynccontextmanager
    async def notebook():
        notes = []

        def write_note(text: str) -> int:
            """Write a note."""
            notes.append(text)
            return len(notes)

        yield write_note
        closed.append(len(notes))

    def script(messages, tools):
        last = messages[-1]
        return last["content"] if last["role"] == "tool" else calls(("write_note", '{"text": "a"}'))

    agent = ChatAgent(Agent(ScriptedBackend(script=script)), tools=[ToolBundle(notebook, per=per)])
    context = await agent.start_conversation()
    said = [await agent.respond(context.conversation_id, "Note it.") for _ in range(2)]
    await agent.close()

    assert (agent.tools, said) == (["write_note"], noted)
    assert closed == [0, *([1, 1] if per == "episode" else [2])]  # the first was to see what it has


def test_a_bundle_takes_no_name(chat):
    with pytest.raises(TypeError, match="the tools of a bundle have their own names, and are not cached"):
        chat().agent.add_tool(ToolBundle(lambda: look_up), name="look")


def test_what_is_no_tool_is_refused_at_once(chat):
    with pytest.raises(TypeError, match="a tool is a BaseTool, a retriever or a function, not str"):
        chat().agent.add_tool("look_up", name="look_up")


def test_a_model_that_only_calls_tools_is_asked_to_speak_without(chat):
    def script(messages, tools):
        return calls(("look_up", '{"order": "A"}')) if tools else "It is on its way. <tool_call>{}"

    talk = chat(script, tools=[look_up], limits=AgentLimits(turns=3))
    assert talk.say("Where?") == "It is on its way."
    assert talk.offered == [["look_up"]] * 3 + [[]]
    assert "A is on its way" in talk.shown[-1][-1]["content"]
    assert talk.history[-1] == assistant("It is on its way.")
    assert talk.stream("Where?") == ["It is on its way."]


def test_a_model_that_says_nothing_even_then_is_reported(chat):
    def script(messages, tools):
        return calls(("look_up", '{"order": "A"}')) if tools else "<tool_call>{}"

    talk = chat(script, tools=[look_up], limits=AgentLimits(turns=2))
    with pytest.raises(
        TurnLimitError, match=r"called tools in 2 turns and then said nothing; raise max_tool_"
    ):
        talk.say("Where?")
    assert talk.history == []


def test_a_backend_that_takes_no_tools_is_refused_by_name(chat, monkeypatch):
    can = frozenset({Capability.CHAT})
    monkeypatch.setattr(ScriptedBackend, "capabilities", can)
    talk = chat(tools=[look_up])
    with pytest.raises(CapabilityError, match="ScriptedBackend takes no tools, and look_up are registered"):
        talk.say("Hi")
    assert talk.say("Hi", use_tools=False) == "to Hi"


def test_an_answer_is_streamed_without_its_tool_calls(chat):
    def script(messages, tools):
        if messages[-1]["role"] == "tool":
            return "It is on its way."
        return {**calls(("look_up", '{"order": "A"}')), "content": "One moment."}

    talk = chat(script, tools=[look_up])
    pieces = talk.stream("Where?")
    assert "".join(pieces) == "One moment.\n\nIt is on its way."
    assert len(pieces) > 3
    assert talk.history[-1] == assistant("It is on its way.")


def test_a_stream_that_fails_raises_behind_what_came_and_keeps_nothing(chat):
    class Breaking(ScriptedBackend):
        async def stream(self, messages, sampling, tools=()):
            yield "One"
            raise ValueError("the line is dead")

    talk = chat(model=Agent(Breaking()))
    with pytest.raises(ValueError, match="the line is dead"):
        talk.stream("Hi")
    assert talk.history == []


def test_a_stream_that_is_left_is_cancelled_and_the_next_message_is_answered(chat):
    class Slow(ScriptedBackend):
        async def stream(self, messages, sampling, tools=()):
            yield "One"
            await asyncio.Event().wait()

    talk = chat(model=Agent(Slow()))

    async def leave():
        stream = talk.agent.stream(talk.id, "Hi")
        assert await anext(stream) == "One"
        await stream.aclose()
        return await talk.agent.respond(talk.id, "Well?")

    assert asyncio.run(leave()) == "Hello! How can I help you?"
    assert [m["content"] for m in talk.history] == ["Well?", "Hello! How can I help you?"]


def test_an_answer_that_failed_leaves_no_trace(chat):
    state = {"up": False}

    def script(messages, tools):
        if not state["up"]:
            raise ConnectionError("down")
        return "Yes."

    talk = chat(script)
    with pytest.raises(ConnectionError):
        talk.say("Hi")
    state["up"] = True
    assert talk.say("Hi") == "Yes."
    assert talk.history == [user("Hi"), assistant("Yes.")]


class Busy(MemoryStore):
    """Another process adds to each conversation just before ``times`` appends."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    async def append(self, conversation_id, messages, *, expected, **more):
        if self.times:
            self.times -= 1
            await super().append(conversation_id, [user("other"), assistant("ok")], expected=expected)
        await super().append(conversation_id, messages, expected=expected, **more)


def test_an_answer_is_thought_out_anew_where_another_process_was_faster(chat):
    talk = chat(store=Busy(2))
    assert talk.say("Hi") == "to Hi"
    assert [m["content"] for m in talk.history] == ["other", "ok", "other", "ok", "Hi", "to Hi"]
    assert len(talk.shown[-1]) == 5


def test_what_tools_have_done_is_not_done_twice_by_itself(chat):
    talk = chat(where_is("A"), store=Busy(1), tools=[look_up])
    with pytest.raises(ConflictError, match="somebody else has added to it"):
        talk.say("Where?")
    assert len(talk.shown) == 2


def test_what_was_shown_is_not_taken_back(chat):
    talk = chat(store=Busy(1))
    with pytest.raises(ConflictError):
        talk.stream("Hi")


async def test_two_agents_on_one_store_lose_nothing(tmp_path):
    stores = [SqlStore.sqlite(tmp_path / "chats.db") for _ in range(2)]
    script = lambda messages, tools: f"to {messages[-1]['content']}"  # noqa: E731
    agents = [ChatAgent(Agent(ScriptedBackend(script=script)), store=store) for store in stores]
    context = await agents[0].start_conversation()

    async def say(agent, text):
        while True:
            try:
                return await agent.respond(context.conversation_id, text)
            except ConflictError:
                await asyncio.sleep(0)

    said = [f"{agent}.{number}" for agent in range(2) for number in range(10)]
    await asyncio.gather(*(say(agents[int(text[0])], text) for text in said))
    history = await agents[0].history(context.conversation_id)
    for store in stores:
        await store.close()
    kept = [m["content"] for m in history]
    assert sorted(kept[::2]) == sorted(said)
    assert kept[1::2] == [f"to {text}" for text in kept[::2]]


def test_the_nearest_examples_are_shown(chat):
    dialogues = DialogueDatabase(
        [
            {"content": "Where is my order?", "expected_response": "Which number does it have?"},
            {"content": "Order a pizza", "expected_response": "x" * 5000},
            {"content": "I want to return a shoe", "expected_response": "Of course."},
        ],
        embedder=None,
    )
    talk = chat(strategy=Strategy("s", "Be kind."), examples=dialogues)
    talk.say("Where is my order")
    assert talk.system == (
        "Be kind.\n\nExamples of good answers to messages like this one:\n"
        "User: Where is my order?\nAssistant: Which number does it have?"
    )
    talk.say("zzz")
    assert talk.system == "Be kind."


def test_active_conversations_are_those_begun_and_not_ended(chat):
    talk = chat()

    async def work():
        second = await talk.agent.start_conversation("bob")
        assert [c.user_id for c in talk.agent.conversations] == [None, "bob"]
        await talk.agent.end_conversation(talk.id)
        assert [c.conversation_id for c in talk.agent.conversations] == [second.conversation_id]
        await talk.agent.record(talk.id)
        await talk.agent.end_conversation(second.conversation_id, delete=True)
        with pytest.raises(ConversationNotFoundError):
            await talk.agent.record(second.conversation_id)

    asyncio.run(work())


def test_the_same_agent_works_in_one_event_loop_after_another():
    talk = ChatAgent(LocalModel("any", backend=ScriptedBackend(replies=["One.", "Two."])))
    context = asyncio.run(talk.start_conversation())
    assert [asyncio.run(talk.respond(context.conversation_id, text)) for text in ("a", "b")] == [
        "One.",
        "Two.",
    ]
    asyncio.run(talk.close())


def slow_echo():
    async def slow(text: str) -> str:
        """Repeat a text, after a while."""
        await asyncio.sleep(0.02)
        return text

    def script(messages, tools):
        said = messages[-1]
        return (
            f"to {said['content']}"
            if said["role"] == "tool"
            else calls(("slow", f'{{"text": "{said["content"]}"}}'))
        )

    return ChatAgent(LocalModel("any", backend=ScriptedBackend(script=script)), tools=[slow])


def test_messages_from_several_threads_are_answered_one_after_another():
    talk = slow_echo()
    conversation = asyncio.run(talk.start_conversation()).conversation_id
    with ThreadPoolExecutor(8) as threads:
        said = list(threads.map(lambda n: asyncio.run(talk.respond(conversation, f"{n}")), range(16)))
    assert said == [f"to {n}" for n in range(16)]
    history = [m["content"] for m in asyncio.run(talk.history(conversation))]
    assert sorted(history[::4], key=int) == [f"{n}" for n in range(16)]
    assert history[3::4] == [f"to {asked}" for asked in history[::4]]
    asyncio.run(talk.close())


def test_a_thread_that_leaves_while_it_waits_keeps_nobody_waiting():
    talk = slow_echo()
    conversation = asyncio.run(talk.start_conversation()).conversation_id

    async def impatient(n):
        try:
            return await asyncio.wait_for(talk.respond(conversation, f"{n}"), 0.01)
        except TimeoutError:
            return None

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda n: asyncio.run(impatient(n)), range(8))) == [None] * 8
    assert asyncio.run(talk.respond(conversation, "Hi")) == "to Hi"
    asyncio.run(talk.close())


def test_an_event_loop_that_was_left_in_the_middle_of_an_answer_keeps_nobody_waiting():
    talk = slow_echo()
    conversation = asyncio.run(talk.start_conversation()).conversation_id
    loop = asyncio.new_event_loop()
    left = loop.create_task(talk.respond(conversation, "left"))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert asyncio.run(asyncio.wait_for(talk.respond(conversation, "Hi"), 20)) == "to Hi"
    asyncio.run(talk.close())
    left._log_destroy_pending = False  # as it is meant to be


def test_the_agent_behind_it_is_the_hosts(chat):
    talk = chat(strategy="sales", tools=[look_up], sampling=Sampling(temperature=0.3))
    agent = asyncio.run(talk.agent.ready())
    assert isinstance(agent, Agent)
    assert "sales consultant" in agent.strategy.instructions
    assert [tool.name for tool in agent.tools] == ["look_up"]
    assert agent.sampling.temperature == 0.3
    conversation = agent.open()
    assert asyncio.run(conversation.act([user("Hi")]))["content"] == "to Hi"


async def test_an_agent_given_lends_its_strategy_tools_and_sampling(chat):
    own = Agent(ScriptedBackend(), strategy=Strategy("own", "Mine."), tools=(look_up,), sampling=Sampling(7))
    agent = await ChatAgent(own).ready()
    assert (agent.strategy.name, agent.tools[0].name, agent.sampling) == ("own", "look_up", Sampling(7))


@pytest.mark.parametrize("seed", [None, 5])
def test_a_seed_repeats_a_conversation(fakes, seed):
    def seeds():
        tokenizer = fakes.PieceTokenizer()
        backend = fakes.TokenBackend(tokenizer, "hello")
        agent = ChatAgent(Agent(backend, TemplateRenderer(tokenizer)), seed=seed)

        async def talk():
            context = await agent.start_conversation()
            for text in ("Hi", "And?"):
                await agent.respond(context.conversation_id, text)

        asyncio.run(talk())
        return [call.sampling.seed for call in backend.calls]

    assert seeds() == seeds()
    assert len(set(seeds())) == (1 if seed is None else 2)


def test_debugging_tells_what_the_model_was_shown_and_said(chat, caplog):
    caplog.set_level(logging.DEBUG, "grpo_host.chat")
    chat(debug=True).say("A secret")
    told = [record.getMessage() for record in caplog.records]
    assert any("is shown" in text and "A secret" in text for text in told)
    assert any("answered in" in text and "to A secret" in text for text in told)
    caplog.clear()
    chat().say("A secret")
    assert "secret" not in caplog.text


class Dictionary(dict):
    """The smallest cache."""

    ttls: ClassVar[list] = []

    def set(self, key, value, ttl=None):
        self[key] = value
        self.ttls.append(ttl)


class Distant(Dictionary):
    """One whose methods are async."""

    async def get(self, key):
        return super().get(key)

    async def set(self, key, value, ttl=None):
        super().set(key, value, ttl)


@pytest.mark.parametrize("cache", [Dictionary, Distant])
@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ({"sampling": Sampling(temperature=0)}, 1),
        ({"seed": 3}, 1),
        ({"sampling": Sampling(temperature=0.7)}, 2),
    ],
)
def test_only_deterministic_answers_are_used_again(chat, cache, options, calls):
    talk = chat(cache=cache(), **options)
    first = talk.say("Hi")
    talk.id = asyncio.run(talk.agent.start_conversation()).conversation_id
    assert "".join(talk.stream("Hi")) == first
    assert len(talk.shown) == calls


async def test_a_token_model_is_asked_once_until_its_weights_change(fakes):
    class Trained(fakes.TokenBackend):
        async def update_weights(self, weights, *, version):
            pass

    tokenizer = fakes.PieceTokenizer()
    backend = Trained(tokenizer, "hello", "order")
    model = LocalModel("any", backend=backend)
    agent = ChatAgent(model, cache=Dictionary(), sampling=Sampling(temperature=0))

    async def say():
        context = await agent.start_conversation()
        return await agent.respond(context.conversation_id, "Hi")

    assert [await say() for _ in range(2)] == ["hello", "hello"]
    assert len(backend.calls) == 1

    await (await agent.ready()).backend.update_weights([], version=1)
    assert await say() == "order"
    await agent.close()


def test_results_of_tools_marked_cacheable_are_used_again(chat):
    runs = []

    @cacheable(ttl=60)
    def price(order: str) -> dict:
        """The price."""
        runs.append(order)
        return {"price": 3}

    def script(messages, tools):
        if messages[-1]["role"] == "tool":
            return messages[-1]["content"]
        return calls((tools[0]["function"]["name"], '{"order": "A"}'))

    cache = Dictionary()
    talk = chat(script, tools=[price], cache=cache)
    assert [talk.say("?"), talk.say("?")] == ['{"price": 3}'] * 2
    assert (runs, cache.ttls[-1]) == (["A"], 60)
    talk.agent.add_tool(price, cacheable=False)
    talk.say("?")
    assert runs == ["A", "A"]


@pytest.mark.parametrize(("marked", "runs"), [(True, 1), (None, 2)])
def test_a_tool_can_be_marked_where_it_is_registered(chat, marked, runs):
    seen = []

    async def look_up(order: str) -> str:
        """Look up an order."""
        seen.append(order)
        return "soon"

    talk = chat(where_is("A"), cache=Dictionary())
    talk.agent.add_tool(look_up, cacheable=marked)
    talk.say("?")
    talk.say("?")
    assert len(seen) == runs


def price_list(price):
    def look_up(order: str) -> str:
        """Look up an order."""
        return f"{price} euros"

    return look_up


def test_a_result_is_never_another_functions_though_both_look_alike(chat):
    cache = Dictionary()
    for price in ("3", "4"):
        talk = chat(where_is("A"), cache=cache)
        talk.agent.add_tool(price_list(price), cacheable=True)
        assert talk.say("?") == f"{price} euros"


def test_what_cannot_be_cached_is_said_all_the_same(chat, caplog):
    def look_up(order: str) -> str:
        """Look up an order."""
        return "half a character: \ud83d"

    talk = chat(where_is("A"), cache=MemoryCache())
    talk.agent.add_tool(look_up, cacheable=True)
    assert talk.say("?").startswith("half a character: ")
    assert "not cached: " in caplog.text


def test_a_failure_of_a_cacheable_tool_is_not_kept(chat):
    seen = []

    def look_up(order: str) -> str:
        """Look up an order."""
        seen.append(order)
        raise KeyError(order)

    talk = chat(where_is("A"), cache=Dictionary())
    talk.agent.add_tool(look_up, cacheable=True)
    assert talk.say("?") == "Error: KeyError: 'A'"
    talk.say("?")
    assert len(seen) == 2


def test_an_agent_that_is_not_closed_frees_its_model():
    class Closing(ScriptedBackend):
        closed = False

        async def close(self):
            Closing.closed = True

    agent = ChatAgent(LocalModel("any", backend=Closing()))
    backend = asyncio.run(agent.ready()).backend
    thread = backend._engine.thread._thread
    del agent, backend
    gc.collect()
    thread.join(5)
    assert Closing.closed


def test_a_record_of_another_store_without_a_strategy_gets_the_agents(chat):
    talk = chat(strategy=Strategy("s", "Be kind."))
    asyncio.run(talk.agent.store.create(ConversationRecord("old")))
    talk.id = "old"
    talk.say("Hi")
    assert talk.system == "Be kind."


def test_a_call_that_could_not_be_parsed_is_kept_as_the_text_that_it_was(chat):
    written = '<tool_call>{"name": "look_up"'

    def script(messages, tools):
        return calls((MALFORMED_CALL, written)) if messages[-1]["role"] == "user" else "Sorry."

    talk = chat(script, tools=[look_up])
    assert talk.say("Where is A12?") == "Sorry."
    assert "is not valid JSON of the form" in talk.shown[-1][-1]["content"]
    _, tried, answer, _ = talk.history
    assert tried == assistant(written)
    assert (answer["role"], answer.get("name")) == ("tool", None)
