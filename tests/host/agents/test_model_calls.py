from __future__ import annotations

import asyncio
import dataclasses
import threading

import pytest
from tests.host.agents.lookup import CALL, TOOLS

from grpo_host.agents.agent import Agent, AgentLimits, TurnLimitError, TurnTimeoutError
from grpo_host.agents.model_calls import ModelCalls, NoEpisodeError, current_calls
from grpo_host.agents.rendering.template import TemplateRenderer
from grpo_sdk import (
    ProviderError,
    Sampling,
    TokenReply,
    Trajectory,
    assistant,
    system,
    tool_call,
    tool_result,
    user,
)
from grpo_sdk.testing import ScriptedBackend
from grpo_sdk.trajectory import TokenSequence


@pytest.fixture
def make(fakes):
    """Makes an agent over a backend that samples ``replies``, by token ids."""

    def make(*replies, cls=None, turns=100, seconds=30.0):
        tokenizer = fakes.PieceTokenizer()
        backend = (cls or fakes.TokenBackend)(tokenizer, *replies)
        limits = AgentLimits(turns=turns, turn_seconds=seconds)
        return Agent(backend, TemplateRenderer(tokenizer), sampling=Sampling(10_000), limits=limits)

    return make


async def playing(agent, play, **options):
    """What ``play`` gives, which is given the calls of an episode."""

    calls = ModelCalls(agent, policy_version=3, **options)
    return calls, await play(calls)


def sampled(calls):
    """Each sampled run of ids in the ledger, behind all that stands before it."""
    found = []
    for sequence in calls.ledger().sequences:
        at = 0
        while 1 in sequence.mask[at:]:
            start = sequence.mask.index(1, at)
            end = sequence.mask.index(0, start) if 0 in sequence.mask[start:] else len(sequence.mask)
            found.append((sequence.ids[:start], sequence.ids[start:end], sequence.logprobs[start:end]))
            at = end
    return found


def assert_exact(agent, calls):
    """The ledger has what the backend sampled, each answer once, behind the prompt that it was given."""
    log = [(call.prompt, call.reply.ids, call.reply.logprobs) for call in agent.backend.calls]
    assert sorted(sampled(calls)) == sorted(log)


async def test_a_call_that_goes_on_from_an_earlier_one_extends_its_ids(make):
    agent = make(CALL, "It is here.", "Bye.")

    async def play(calls):
        said = [system("Help."), user("Where is A12?")]
        for more in ("a kettle", None):
            reply = await calls.respond(said, TOOLS)
            said.append(reply.message)
            if more:
                said.append(tool_result(reply.message["tool_calls"][0], more))
        said.append(user("Thanks!"))
        await calls.respond(said, TOOLS)

    calls, _ = await playing(agent, play)
    assert_exact(agent, calls)
    [sequence] = calls.ledger(spans=True).sequences
    roles = ["system", "user", "assistant", "tool", "assistant", "user", "assistant"]
    assert [span.role for span in sequence.spans] == roles
    assert [message["role"] for message in calls.messages] == roles
    assert len(calls.turns) == 3
    assert set(sequence.versions) == {-1, 3}


async def test_arguments_that_were_written_anew_are_the_same_call(make):
    agent = make(CALL, "It is here.")

    async def play(calls):
        said = [user("Where is A12?")]
        call = (await calls.respond(said, TOOLS)).message["tool_calls"][0]
        again = tool_call("lookup", '{ "order" :"A12"}', call["id"])
        await calls.respond([*said, assistant("", [again]), tool_result(again, "here")], TOOLS)

    calls, _ = await playing(agent, play)
    assert len(calls.ledger().sequences) == 1
    assert_exact(agent, calls)


@pytest.mark.parametrize("change", ["history", "arguments", "call id", "tools", "role"])
async def test_a_call_that_does_not_go_on_has_a_sequence_of_its_own(make, change):
    agent = make(CALL, "It is here.")

    async def play(calls):
        said = [user("Where is A12?")]
        first = (await calls.respond(said, TOOLS, role="desk")).message
        call = first["tool_calls"][0]
        if change == "history":
            said = [user("Where is it?")]
        if change == "arguments":
            call = tool_call("lookup", '{"order": "B1"}', call["id"])
        if change == "call id":
            call = tool_call("lookup", '{"order": "A12"}', "another")
        said = [*said, assistant("", [call]), tool_result(call, "here")]
        await calls.respond(
            said, () if change == "tools" else TOOLS, role="judge" if change == "role" else "desk"
        )

    calls, _ = await playing(agent, play)
    assert len(calls.ledger().sequences) == 2
    assert_exact(agent, calls)


async def test_a_history_that_goes_on_twice_is_extended_once(make):
    agent = make("One.", "Two.", "Three.")

    async def play(calls):
        said = [user("Count.")]
        said.append((await calls.respond(said)).message)
        await calls.respond([*said, user("Go on.")])
        await calls.respond([*said, user("And then?")])

    calls, _ = await playing(agent, play)
    assert len(calls.ledger().sequences) == 2
    assert_exact(agent, calls)


async def test_calls_at_the_same_time_share_no_sequence(make):
    agent = make("One.", "Two.", "Three.")

    async def play(calls):
        said = [user("Count.")]
        said.append((await calls.respond(said)).message)
        await asyncio.gather(*(calls.respond([*said, user("Go on.")]) for _ in range(3)))

    calls, _ = await playing(agent, play)
    assert len(calls.ledger().sequences) == 3
    assert_exact(agent, calls)


async def test_a_call_that_failed_has_no_tokens_and_is_asked_again(make):
    agent = make("One.", ProviderError("gone"), "Two.")

    async def play(calls):
        said = [user("Count.")]
        said.append((await calls.respond(said)).message)
        agent.backend._replies = (ProviderError("gone"),)
        with pytest.raises(ProviderError):
            await calls.respond([*said, user("Wrong way.")])
        with pytest.raises(ProviderError):
            await calls.respond([user("Another.")])
        agent.backend._replies = ("Two.",)
        await calls.respond([*said, user("Go on.")])

    calls, _ = await playing(agent, play)
    assert len(calls.ledger().sequences) == 1
    assert_exact(agent, calls)
    assert [message["content"] for message in calls.messages] == ["Count.", "One.", "Go on.", "Two."]


@pytest.fixture
def slow(fakes):
    """A backend that tells some ids and then stops to think."""

    class Slow(fakes.TokenBackend):
        thinks = True

        async def stream_ids(self, prompt, sampling):
            if not self.thinks:
                async for item in super().stream_ids(prompt, sampling):
                    yield item
                return
            self.told = self.tokenizer.encode("Well, let me", add_special_tokens=False)
            self.prompt = list(prompt)
            yield self.told
            await asyncio.sleep(60)
            yield TokenReply([], [], "stop")

    return Slow


async def test_an_answer_that_was_cut_short_is_kept_apart_and_not_trained(make, slow):
    agent = make("One.", "Two.", cls=slow)
    agent.backend.thinks = False

    async def play(calls):
        said = [user("Count.")]
        said.append((await calls.respond(said, role="desk")).message)
        agent.backend.thinks = True
        heard = asyncio.Event()
        task = asyncio.create_task(
            calls.respond([*said, user("Hm?")], on_text=lambda _: heard.set(), role="desk")
        )
        await heard.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        agent.backend.thinks = False
        await calls.respond([*said, user("Go on.")], role="desk")

    calls, _ = await playing(agent, play)
    kept, cut = calls.ledger(spans=True).sequences
    assert (kept.weight, cut.weight) == (1.0, 0.0)
    assert kept.role == cut.role == "desk"
    prompt = agent.backend.prompt
    assert cut.ids == [*prompt, *agent.backend.told]
    assert cut.mask == [0] * len(prompt) + [1] * len(agent.backend.told)
    assert cut.spans[-1].role == "assistant"
    assert kept.sampled == sum(len(call.reply.ids) for call in agent.backend.calls)
    assert [message["content"] for message in calls.messages] == ["Count.", "One.", "Go on.", "Two."]


async def test_an_app_that_ignores_the_limit_of_calls_is_told_so_again_and_again(make):
    agent = make("One.", turns=2)

    async def play(calls):
        for _ in range(2):
            await calls.respond([user("Count.")])
        for _ in range(2):
            with pytest.raises(TurnLimitError):
                await calls.respond([user("Count.")])
        assert isinstance(calls.stopped.exception(), TurnLimitError)

    calls, _ = await playing(agent, play)
    assert len(agent.backend.calls) == len(calls.turns) == 2


async def test_a_call_that_takes_too_long_ends_the_episode(make, slow):
    agent = make("One.", cls=slow, seconds=0.01)

    async def play(calls):
        with pytest.raises(TurnTimeoutError):
            await calls.respond([user("Count.")], on_text=lambda _: None)
        with pytest.raises(TurnTimeoutError):
            await calls.respond([user("Again.")])

    calls, _ = await playing(agent, play)
    [cut] = calls.ledger().sequences
    assert cut.weight == 0.0


async def test_calls_are_seeded_one_by_one_and_their_own_sampling_is_kept(make):
    agent = make("One.", "Two.")

    def brief(sampling):
        return dataclasses.replace(sampling, max_tokens=7)

    async def play(calls):
        for _ in range(2):
            await calls.respond([user("Count.")], adjust=brief)

    await playing(agent, play, seed=5)
    first = [call.sampling for call in agent.backend.calls]
    assert [sampling.max_tokens for sampling in first] == [7, 7]
    assert first[0].seed != first[1].seed
    agent.backend.calls.clear()
    await playing(agent, play, seed=5)
    assert [call.sampling.seed for call in agent.backend.calls] == [sampling.seed for sampling in first]


async def test_each_role_has_its_weight(make):
    agent = make("One.", "Two.")
    weights = {"desk": 0.5, "judge": 0.0}

    async def play(calls):
        for role in weights:
            await calls.respond([user("Count.")], role=role)

    calls, _ = await playing(agent, play, weight=weights.__getitem__)
    assert {item.role: item.weight for item in calls.ledger().sequences} == weights


async def test_a_backend_without_token_ids_has_no_ledger():
    async def play(calls):
        said = [user("Hello")]
        said.append((await calls.respond(said)).message)
        await calls.respond([*said, user("And?")])

    calls, _ = await playing(Agent(ScriptedBackend(replies=["One.", "Two."])), play)
    assert calls.ledger() is None
    assert [message["content"] for message in calls.messages] == ["Hello", "One.", "And?", "Two."]


async def test_the_calls_of_an_episode_are_known_in_its_context_alone(make):
    agent = make("One.")
    failures: list[Exception] = []

    def bare():
        try:
            current_calls()
        except NoEpisodeError as problem:
            failures.append(problem)

    async def play(calls):
        with pytest.raises(NoEpisodeError, match="outside of an episode"):
            current_calls()
        with calls.current():
            assert current_calls() is calls
            assert await asyncio.create_task(asyncio.to_thread(current_calls)) is calls
            thread = threading.Thread(target=bare)
            thread.start()
            thread.join()
        bare()

    await playing(agent, play)
    assert len(failures) == 2


def test_a_trajectory_keeps_role_and_weight_and_older_ones_have_none():
    sequence = TokenSequence([1], [1], [-0.5], [0], role="desk", weight=0.5)
    from grpo_sdk.trajectory import Ledger, Task

    trajectory = Trajectory(
        "t", "talk", Task("t"), "completed", "done", [user("Hi")], ledger=Ledger([sequence])
    )
    line = trajectory.to_json()
    assert Trajectory.from_json(line) == trajectory
    older = Trajectory.from_json(line.replace(b',"role":"desk","weight":0.5', b""))
    assert older.ledger.sequences[0] == TokenSequence([1], [1], [-0.5], [0])
