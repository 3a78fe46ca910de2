"""Apps that made their own models are played with the policy; no call leaves this process."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from tests.host.langchain.apps import assert_exact

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.model_calls import NoEpisodeError
from grpo_host.agents.rendering import make_renderer
from grpo_host.langchain.app import App
from grpo_host.langchain.app_agent import AppAgent
from grpo_host.langchain.redirect import Redirect
from grpo_host.rollouts.episode import EpisodeRequest, run_episode
from grpo_sdk import Environment, Observation, Sampling, StepResult, Task, user

MODEL = ChatOpenAI(model="gpt-5-mini", api_key="none", max_retries=0)
"""Made when this file is imported, as apps do; so are the graphs below."""
JUDGE = ChatOpenAI(model="gpt-5", api_key="none", max_retries=0)


@tool
def lookup(order: str) -> str:
    """Look up an order."""
    return f"{order} is packed"


class Answer(BaseModel):
    """An answer."""

    order: str
    day: str


GRAPH = create_agent(MODEL, [lookup], system_prompt="Help.", name="desk")
CALL = '<tool_call>{"name": "lookup", "arguments": {"order": "A12"}}</tool_call>'
JSON = '{"order": "A12", "day": "Monday"}'


@pytest.fixture(autouse=True)
def no_network(monkeypatch) -> list:
    """Refuses every connection but those of the event loops themselves, and keeps who asked for one."""
    asked: list = []

    def refuse(self, address, *rest):
        asked.append(address)
        raise AssertionError(f"something connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: refuse(None, a))
    return asked


class Talk(Environment):
    def tasks(self, split):
        return []

    async def reset(self, task, *, seed):
        return Observation([user(task.data.get("says", "Where is A12?"))])

    async def step(self, action):
        return StepResult(done=True)


@pytest.fixture
def make(tokens):
    """Makes an agent that plays ``app`` with a policy that samples what ``script`` says."""
    installed: list[Redirect] = []

    def make(app, script, *, others="refuse", redirect=("openai:gpt-5-mini",)):
        plain = tokens(script)
        backend = type("Structured", (type(plain),), {"capabilities": plain.capabilities | {"structured"}})(
            plain.tokenizer, script
        )
        limits = AgentLimits(turns=10, turn_seconds=20.0)
        agent = Agent(
            backend, make_renderer(backend.tokenizer, backend.model), sampling=Sampling(10_000), limits=limits
        )
        played = AppAgent(agent, App("test:app", app))
        installed.append(Redirect(redirect, played.model, others))
        installed[-1].install()
        return backend, played

    yield make
    for redirect in installed:
        redirect.restore()


async def play(agent, **data):
    request = EpisodeRequest(Task("t", data))
    return await run_episode(agent, Talk, request, environment_name="talk", seconds=30.0)


def streamed(graph):
    """``graph``, whose result is what comes last of its stream, its model's tokens included."""

    async def run(given):
        tokens = []
        async for mode, item in graph.astream(given, stream_mode=["values", "messages"]):
            if mode == "values":
                last = item
            else:
                tokens.append(item)
        assert tokens
        return last

    return RunnableLambda(run)


def in_threads(graph):
    return RunnableLambda(lambda given: graph.invoke(given))


def stream_in_threads(graph):
    return RunnableLambda(lambda given: list(graph.stream(given, stream_mode="values"))[-1])


Ways = pytest.mark.parametrize(
    "way",
    [lambda graph: graph, in_threads, streamed, stream_in_threads],
    ids=["ainvoke", "invoke", "astream", "stream"],
)


@Ways
async def test_a_graph_that_was_made_at_import_is_played_as_it_is(make, no_network, way):
    backend, agent = make(way(GRAPH), lambda heard: "It is packed." if "packed" in heard else CALL)
    trajectory = await play(agent)
    assert trajectory.error is None
    assert trajectory.final_text == "It is packed."
    assert_exact(backend, trajectory)
    [sequence] = trajectory.ledger.sequences
    assert sequence.role == "desk"
    assert no_network == []


@Ways
@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
async def test_structured_answers_of_create_agent(make, way, strategy):
    graph = create_agent(MODEL, [], response_format=strategy(Answer))
    said = (
        JSON
        if strategy is ProviderStrategy
        else f'<tool_call>{{"name": "Answer", "arguments": {JSON}}}</tool_call>'
    )
    backend, agent = make(way(graph), lambda heard: said)
    trajectory = await play(agent)
    assert trajectory.error is None
    assert json.loads(trajectory.final_text) == json.loads(JSON)
    assert_exact(backend, trajectory)
    [sampling] = backend.sampling
    assert sampling.grammar or sampling.json_schema or sampling.tool_choice == "required"


def joined(before, item):
    """Parts of a mapping added up; else the last of what gets ever longer."""
    return before + item if isinstance(item, dict) else item


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("include_raw", [False, True])
@Ways
async def test_with_structured_output(make, method, include_raw, way):
    model = MODEL.with_structured_output(Answer, method=method, include_raw=include_raw)

    async def streamed_last(given):
        return reduce(joined, [item async for item in model.astream(given["messages"])])

    ways = {
        "streamed": RunnableLambda(streamed_last),
        "stream_in_threads": RunnableLambda(lambda given: reduce(joined, model.stream(given["messages"]))),
        "in_threads": RunnableLambda(lambda given: model.invoke(given["messages"])),
    }
    asked = ways.get(getattr(way, "__name__", ""), RunnableLambda(lambda given: given["messages"]) | model)
    app = asked | RunnableLambda(lambda found: found["parsed"] if include_raw else found)
    call = f'<tool_call>{{"name": "Answer", "arguments": {JSON}}}</tool_call>'
    backend, agent = make(app, lambda heard: call if method == "function_calling" else JSON)
    trajectory = await play(agent)
    assert trajectory.error is None
    assert json.loads(trajectory.final_text) == json.loads(JSON)
    assert_exact(backend, trajectory)


async def test_another_model_of_the_app_is_refused_before_anything_is_sent(make, no_network):
    async def ask(given):
        await MODEL.ainvoke(given["messages"])
        try:
            await JUDGE.ainvoke(given["messages"])
        except Exception:
            return "I ignore that."

    backend, agent = make(RunnableLambda(ask), lambda heard: "Hello.")
    trajectory = await play(agent)
    assert trajectory.status == "failed"
    assert "the app called openai:gpt-5, whose calls nothing records; it was not asked" in trajectory.error
    assert_exact(backend, trajectory)
    assert no_network == []


async def test_another_model_may_be_kept_and_is_not_recorded(make):
    judge = GenericFakeChatModel(messages=iter([AIMessage("Good.")]))

    async def ask(given):
        said = await MODEL.ainvoke(given["messages"])
        return f"{said.text} {(await judge.ainvoke(given['messages'])).text}"

    backend, agent = make(RunnableLambda(ask), lambda heard: "Hello.", others="keep")
    trajectory = await play(agent)
    assert trajectory.final_text == "Hello. Good."
    assert_exact(backend, trajectory)


async def test_two_roles_are_trained_with_their_factors_beside_a_fixed_judge(make):
    judge = GenericFakeChatModel(messages=iter([AIMessage("Good.")]))
    writer, critic = (create_agent(MODEL, [], name=name) for name in ("writer", "critic"))

    async def ask(given):
        said = await writer.ainvoke(given)
        seen = await critic.ainvoke({"messages": [said["messages"][-1].text]})
        return f"{seen['messages'][-1].text} {(await judge.ainvoke('Is it good?')).text}"

    backend, agent = make(
        RunnableLambda(ask), lambda heard: "Draft." if "Where" in heard else "Fine.", others="keep"
    )
    trajectory = await play(replace(agent, weights={"writer": 1.0, "critic": 0.5}))
    assert trajectory.final_text == "Fine. Good."
    assert_exact(backend, trajectory)
    weights = {sequence.role: sequence.weight for sequence in trajectory.ledger.sequences}
    assert weights == {"writer": 1.0, "critic": 0.5}


async def test_a_model_whose_class_is_made_later_is_refused_too(make, no_network):
    def ask(given):
        class Late(ChatOpenAI):
            def _generate(self, *args, **kwargs):
                raise AssertionError("it was asked")

        return Late(model="gpt-5", api_key="none").invoke(given["messages"]).text

    _, agent = make(RunnableLambda(ask), lambda heard: "Hello.")
    assert "the app called openai:gpt-5" in (await play(agent)).error
    assert no_network == []


async def test_outside_of_an_episode_and_in_a_bare_thread_nothing_is_asked(make, no_network):
    failed: list[BaseException] = []

    def work(model):
        try:
            model.invoke("Hi")
        except Exception as problem:
            failed.append(problem)

    def ask(given):
        for model in (MODEL, JUDGE):
            thread = threading.Thread(target=work, args=[model])
            thread.start()
            thread.join()
        return "Done."

    backend, agent = make(RunnableLambda(ask), lambda heard: "Hello.")
    await play(agent)
    work(MODEL)
    work(JUDGE)
    assert [type(problem) for problem in failed] == [NoEpisodeError] * 4
    assert "openai:gpt-5 was called outside of an episode" in str(failed[1])
    assert backend.log == []
    assert no_network == []


def test_afterwards_every_class_is_as_it_was(make):
    methods = ("_generate", "_agenerate", "_stream", "_astream", "__pydantic_init_subclass__")

    def found():
        return {
            (model, name): model.__dict__.get(name)
            for model in (BaseChatModel, ChatOpenAI, GenericFakeChatModel)
            for name in methods
        }

    before = found()
    redirect = Redirect(["openai:gpt-5-mini"], None)
    redirect.install()
    assert found() != before
    with pytest.raises(RuntimeError, match="the models of another app are redirected"):
        Redirect([], None).install()
    redirect.restore()
    assert found() == before


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"tools": [{"type": "web_search"}]}, 'a tool of the type "web_search" runs at a provider'),
        ({"n": 3}, "the app asks for 3 answers at once, and an episode takes one; leave out n"),
        ({"logit_bias": {"1": 2}}, 'knows no "logit_bias"'),
    ],
)
async def test_what_the_policy_cannot_do_is_refused_by_name(make, kwargs, says):
    model = MODEL.bind(**kwargs)
    backend, agent = make(
        RunnableLambda(lambda given: model.invoke(given["messages"]).text), lambda heard: "Hi."
    )
    assert says in (await play(agent)).error
    assert backend.log == []


async def test_stop_texts_of_the_app_end_an_answer(make):
    model = ChatOpenAI(model="gpt-5-mini", api_key="none", stop_sequences=["three"])
    backend, agent = make(
        RunnableLambda(lambda given: model.invoke(given["messages"]).text), lambda heard: "One two three four"
    )
    assert (await play(agent)).error is None
    assert (await play(agent)).final_text == "One two "
    assert backend.sampling[0].stop == ("three",)


async def test_sixty_four_episodes_at_once_keep_apart(make):
    chain = MODEL | StrOutputParser()
    app = RunnableLambda(lambda given: given["messages"]) | RunnableParallel(a=chain, b=chain)
    backend, agent = make(
        app | RunnableLambda(lambda found: found["a"] + found["b"]),
        lambda heard: f"It is {heard.split('Number ')[1].split('!')[0]}.",
    )

    trajectories = await asyncio.gather(
        *(
            run_episode(
                agent,
                Talk,
                EpisodeRequest(Task("t", {"says": f"Number {n}!"})),
                environment_name="talk",
                seconds=60.0,
            )
            for n in range(64)
        )
    )
    assert [t.final_text for t in trajectories] == [f"It is {n}.It is {n}." for n in range(64)]
    assert_exact(backend, *trajectories)


class Counting(BaseCallbackHandler):
    """As tracers do, it hears of every model call."""

    def __init__(self):
        self.begun: list = []
        self.ended: list = []

    def on_chat_model_start(self, serialized, messages, *, run_id, **kwargs):
        self.begun.append(run_id)

    def on_llm_end(self, response, *, run_id, **kwargs):
        self.ended.append(run_id)


@Ways
async def test_those_who_trace_the_app_hear_of_each_call_once(make, way):
    heard = Counting()
    model = ChatOpenAI(model="gpt-5-mini", api_key="none", callbacks=[heard])
    graph = create_agent(model, [lookup])
    backend, agent = make(way(graph), lambda heard: "It is packed." if "packed" in heard else CALL)
    assert (await play(agent)).error is None
    assert len(set(heard.begun)) == len(heard.begun) == len(heard.ended) == len(backend.log) == 2


async def test_langchains_cache_of_answers_is_refused(make):
    from langchain_core.caches import InMemoryCache
    from langchain_core.globals import set_llm_cache

    _, agent = make(GRAPH, lambda heard: "Hello.")
    set_llm_cache(InMemoryCache())
    try:
        assert "an answer from it has no tokens. Leave out set_llm_cache" in (await play(agent)).error
    finally:
        set_llm_cache(None)


async def test_events_that_a_model_makes_itself_are_redirected(make):
    class Native(ChatOpenAI):
        def _stream_chat_model_events(self, messages, **kwargs) -> Iterator:
            raise AssertionError("it was asked")

    model = Native(model="gpt-5-mini", api_key="none")

    def ask(given):
        stream = model.stream_events(given["messages"], version="v3")
        return stream.output.text

    backend, agent = make(RunnableLambda(ask), lambda heard: "Hello.")
    trajectory = await play(agent)
    assert trajectory.error is None
    assert trajectory.final_text == "Hello."
    assert_exact(backend, trajectory)
