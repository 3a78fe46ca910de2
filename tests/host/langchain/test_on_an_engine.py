"""Apps on a real engine: what is recorded is what it sampled, by a log that is kept apart from the recorder."""

from __future__ import annotations

import asyncio
import operator
from collections import Counter
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from pydantic import BaseModel, Field

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.rendering import make_renderer
from grpo_host.backends.wrapper import BackendWrapper
from grpo_host.langchain.app import App
from grpo_host.langchain.app_agent import AppAgent, AppMapping
from grpo_host.rollouts.episode import EpisodeRequest, run_episode
from grpo_sdk import Environment, ModelSpec, Observation, Sampling, StepResult, Task, TokenReply, user


class Logged(BackendWrapper):
    """Keeps what the engine was shown and what it gave."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.log: list[tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]] = []

    async def generate(self, prompt, sampling):
        reply = await super().generate(prompt, sampling)
        self._note(prompt, reply)
        return reply

    async def stream_ids(self, prompt, sampling):
        shown = list(prompt)
        async for item in self.inner.stream_ids(prompt, sampling):
            if isinstance(item, TokenReply):
                self._note(shown, item)
            yield item

    def _note(self, prompt, reply):
        self.log.append((tuple(prompt), tuple(reply.ids), tuple(reply.logprobs)))


class Talk(Environment):
    def tasks(self, split):
        return []

    async def reset(self, task, *, seed):
        self.lines = ["And B7?", "Thanks!"]
        return Observation([user(f"Where is order {task.id}?")])

    async def step(self, action):
        return StepResult([user(self.lines.pop(0))]) if self.lines else StepResult(done=True)


@tool
def lookup(order: str) -> str:
    """Look up an order."""
    return f"{order} is packed"


class Answer(BaseModel):
    """The answer."""

    day: str = Field(max_length=8)


def streamed(model):
    async def ask(given):
        return "".join([chunk.text async for chunk in model.astream(given["messages"])])

    return RunnableLambda(ask)


def several(model):
    chain = RunnableLambda(lambda given: given["messages"]) | model | StrOutputParser()
    threads = RunnableLambda(lambda given: " ".join(chain.batch([given, given])))
    return RunnableParallel(a=chain, b=threads) | RunnableLambda(lambda found: f"{found['a']} {found['b']}")


def rewritten(model):
    shorten = SummarizationMiddleware(model, trigger=("messages", 4), keep=("messages", 2))
    return create_agent(model, [], middleware=[shorten], name="desk")


class Found(TypedDict):
    messages: list[Any]
    found: Annotated[list[str], operator.add]


def fanned_out(model):
    """Two agents for each of three branches, the second of which hears the first."""
    first, second = (create_agent(model, [], name=name) for name in ("first", "second"))

    async def work(state):
        said = await first.ainvoke({"messages": [HumanMessage(state["topic"])]})
        heard = await second.ainvoke({"messages": [*said["messages"], HumanMessage("Well?")]})
        return {"found": [heard["messages"][-1].text]}

    graph = StateGraph(Found)
    graph.add_node("work", work)
    graph.add_node("end", lambda state: {"messages": [AIMessage(" ".join(state["found"]))]})
    graph.add_conditional_edges(
        START, lambda _: [Send("work", {"topic": f"{n}"}) for n in range(3)], ["work"]
    )
    graph.add_edge("work", "end")
    return graph.compile()


APPS = {
    "agent": lambda model: create_agent(model, [lookup], system_prompt="Help.", name="desk"),
    "streamed": streamed,
    "several": several,
    "rewritten": rewritten,
    "fanned out": fanned_out,
    "structured": lambda model: create_agent(model, [], response_format=ToolStrategy(Answer)),
}

CALLS = {"several": 9, "rewritten": 4, "fanned out": 18}
"""Of the model in an episode, at least."""


async def played(backend, spec, build, *, episodes=4, turns=21):
    """Episodes of the app side by side."""
    limits = AgentLimits(turns=turns, turn_seconds=200.0)
    renderer = make_renderer(backend.tokenizer, spec)
    agent = Agent(backend, renderer, sampling=Sampling(max_tokens=12), limits=limits)
    app = AppAgent(agent, App("test:app", None, build, frozenset({"model"})), AppMapping())
    requests = [EpisodeRequest(Task(f"A{n}"), seed=n) for n in range(episodes)]
    trajectories = await asyncio.gather(
        *(run_episode(app, Talk, item, environment_name="talk", seconds=250.0) for item in requests)
    )
    assert {trajectory.status for trajectory in trajectories} <= {"completed", "truncated"}
    return trajectories


def answers_in(trajectories) -> Counter[Any]:
    """Each answer in the ledgers behind its prompt, with its log-probs."""
    recorded: Counter[Any] = Counter()
    for trajectory in trajectories:
        for sequence in trajectory.ledger.sequences:
            at = 0
            while 1 in sequence.mask[at:]:
                start = sequence.mask.index(1, at)
                at = sequence.mask.index(0, start) if 0 in sequence.mask[start:] else len(sequence.mask)
                parts = sequence.ids[:start], sequence.ids[start:at], sequence.logprobs[start:at]
                recorded[tuple(map(tuple, parts))] += 1
    return recorded


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("name", APPS)
def test_what_an_app_sampled_is_recorded_to_the_last_id_and_logprob(name, tiny_model_path, running):
    from grpo_backends.transformers_engine import TransformersBackend

    spec = ModelSpec("tiny", path=tiny_model_path, dtype="float32", context=1024)
    with running(TransformersBackend(spec)) as started:
        backend = Logged(started.backend)
        trajectories = started.run(played(backend, spec, APPS[name]))
    assert answers_in(trajectories) == Counter(backend.log)
    assert len(backend.log) >= 4 * CALLS.get(name, 1)


@pytest.mark.vllm
@pytest.mark.parametrize("name", APPS)
def test_what_vllms_engine_says_that_it_sampled_is_what_is_recorded(name, vllm_backend, monkeypatch):
    from vllm.v1.engine.llm_engine import LLMEngine

    given: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    step = LLMEngine.step

    def logged(engine):
        outputs = step(engine)
        for output in outputs:
            ids = tuple(output.outputs[0].token_ids)  # all of them until now
            given[output.request_id] = tuple(output.prompt_token_ids), ids
        return outputs

    monkeypatch.setattr(LLMEngine, "step", logged)
    backend = vllm_backend.backend
    turns = {"several": 12, "rewritten": 12, "fanned out": 21}.get(name, 4)  # none is cut during its calls
    episodes = 1 if name == "fanned out" else 2
    trajectories = vllm_backend.run(
        played(backend, backend.model, APPS[name], episodes=episodes, turns=turns)
    )
    recorded = Counter((prompt, ids) for prompt, ids, _ in answers_in(trajectories).elements())
    assert recorded == Counter(given.values())
    assert len(given) >= episodes * CALLS.get(name, 1)
