from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
import time

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_trace_id

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.rendering.template import TemplateRenderer
from grpo_host.plugins import failures
from grpo_host.rollouts import episode as episode_module
from grpo_host.rollouts.episode import EpisodeRequest, run_episode
from grpo_sdk import Observation, StepResult, Task, Trajectory, assistant, system, tool_call, user
from grpo_sdk.testing import ScriptedBackend

REQUEST = EpisodeRequest(Task("t"), sample=2, seed=11, environment_seed=5, id="1/t/2")


async def play(environment, agent=None, *, seconds=30.0, **options):
    """The trajectory of one episode; ``environment`` is one, or a function that makes one."""
    make = environment if callable(environment) else lambda: environment
    agent = agent or Agent(ScriptedBackend(replies=["One.", "Two.", "Three."]))
    run = run_episode(agent, make, REQUEST, environment_name="talk", seconds=seconds, **options)
    return await run


async def test_an_episode_is_recorded_whole(fakes):
    environment = fakes.Talk("Hello", "And?")
    trajectory = await play(environment, policy_version=4)
    assert trajectory.messages == [user("Hello"), assistant("One."), user("And?"), assistant("Two.")]
    assert (trajectory.status, trajectory.stop_reason, trajectory.error) == ("completed", "done", None)
    assert (trajectory.id, trajectory.environment, trajectory.task) == ("1/t/2", "talk", Task("t"))
    assert (trajectory.sample, trajectory.seed, trajectory.policy_version) == (2, 11, 4)
    assert trajectory.outcome == {"success": True}
    assert trajectory.model == "scripted"
    assert len(trajectory.turns) == 2
    assert 0 < trajectory.seconds < 30
    assert trajectory.started <= time.time()
    assert environment.events == ["reset t", "close"]
    assert Trajectory.from_json(trajectory.to_json()) == trajectory


async def test_an_environment_that_changes_its_task_changes_no_other_episodes(fakes):
    class Shop(fakes.Talk):
        async def reset(self, task, *, seed):
            task.data["orders"].pop()
            return await super().reset(task, seed=seed)

    request = dataclasses.replace(REQUEST, task=Task("t", {"orders": ["A1", "A2"]}))
    agent = Agent(ScriptedBackend(replies=["One."]))
    for _ in range(2):
        played = await run_episode(agent, lambda: Shop("Hi"), request, environment_name="shop", seconds=30)
        assert played.task.data == {"orders": ["A1"]}
    assert request.task.data == {"orders": ["A1", "A2"]}


async def test_an_episode_refers_to_the_trace_that_it_ran_in(fakes):
    with TracerProvider().get_tracer("test").start_as_current_span("a run") as span:
        run = run_episode(
            Agent(ScriptedBackend()), fakes.Talk, REQUEST, environment_name="talk", seconds=30.0
        )
        trajectory, trace = await run, format_trace_id(span.get_span_context().trace_id)
    assert trajectory.trace == trace
    assert (await play(fakes.Talk("Hello"))).trace is None


async def test_the_tokens_of_an_episode_know_their_messages(fakes):
    tokenizer = fakes.PieceTokenizer()
    agent = Agent(fakes.TokenBackend(tokenizer, "One."), TemplateRenderer(tokenizer))
    trajectory = await play(fakes.Talk("Hello"), agent)
    [sequence] = trajectory.ledger.sequences
    assert [span.role for span in sequence.spans] == ["user", "assistant"]
    assert Trajectory.from_json(trajectory.to_json()) == trajectory


async def test_the_environment_is_seeded_apart_from_the_policy(fakes):
    class Seeded(fakes.Talk):
        async def reset(self, task, *, seed):
            return Observation([user(f"seed {seed}")])

    assert (await play(Seeded())).messages[0] == user("seed 5")


async def test_numbers_of_numpy_in_an_outcome_are_pythons(fakes):
    class Measured(fakes.Talk):
        async def step(self, action):
            facts = {"success": np.bool_(True), "score": np.float32(0.5), "steps": np.array([1, 2])}
            return StepResult(done=True, outcome=facts)

    trajectory = await play(Measured())
    assert trajectory.outcome == {"success": True, "score": 0.5, "steps": [1, 2]}
    assert trajectory.outcome["success"] is True
    assert Trajectory.from_json(trajectory.to_json()).outcome == trajectory.outcome


async def test_a_system_message_of_the_environment_stands_first(fakes):
    class Shop(fakes.Talk):
        async def reset(self, task, *, seed):
            return Observation([system("The shop is closed."), user("Hi")])

    assert (await play(Shop())).messages[:2] == [system("The shop is closed."), user("Hi")]


async def test_the_environments_last_words_are_recorded(fakes):
    class Polite(fakes.Talk):
        async def step(self, action):
            return StepResult([user("Thanks!")], done=True)

    assert (await play(Polite())).messages[-1] == user("Thanks!")


async def test_tools_of_the_environment_are_made_after_reset(fakes):
    class Desk(fakes.Talk):
        async def reset(self, task, *, seed):
            self.order = "A12"
            return await super().reset(task, seed=seed)

        def tools(self):
            def look_up() -> str:
                """Look it up."""
                return self.order

            return [look_up]

    call = assistant("", [tool_call("look_up", "{}", "call_0")])
    trajectory = await play(Desk(), Agent(ScriptedBackend(replies=[call, "Done."])))
    assert [m["content"] for m in trajectory.tool_messages] == ["A12"]
    assert trajectory.status == "completed"


class Panic(BaseException):
    """As an extension in Rust raises it."""


def failing(fakes, where):
    class Failing(fakes.Talk):
        async def reset(self, task, *, seed):
            if where == "reset":
                raise OSError("no database")
            if where == "panics":
                raise Panic("index out of bounds")
            if where == "leaves":
                raise SystemExit("no licence")
            return await super().reset(task, seed=seed)

        async def step(self, action):
            if where == "step":
                raise KeyError("A12")
            return await super().step(action)

        def tools(self):
            if where == "tools":
                raise RuntimeError("no tools")
            return ()

    return Failing()


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        ("reset", "reset(): OSError: no database", 0),
        ("leaves", "reset(): SystemExit: no licence", 0),
        ("panics", "reset(): Panic: index out of bounds", 0),
        ("tools", "tools(): RuntimeError: no tools", 1),
        ("step", "step(): KeyError: 'A12'", 2),
    ],
)
async def test_an_environment_that_dies_is_a_failed_episode_that_names_method_and_line(
    fakes, where, error, said
):
    environment = failing(fakes, where)
    trajectory = await play(environment)
    assert (trajectory.status, trajectory.stop_reason) == ("failed", "error")
    assert re.fullmatch(
        rf'environment "talk": {re.escape(error)} \(rollouts/test_episode\.py:\d+\)', trajectory.error
    )
    assert len(trajectory.messages) == said
    assert environment.events[-1] == "close"


async def test_an_environment_that_cannot_be_made_is_a_failed_episode():
    def make():
        raise ImportError("no simulator")

    trajectory = await play(make)
    assert trajectory.status == "failed"
    assert trajectory.error.startswith("ImportError: no simulator (rollouts/test_episode.py:")
    assert trajectory.messages == []


async def test_an_environment_that_fails_to_close_spoils_nothing(fakes, caplog):
    class Sticky(fakes.Talk):
        async def close(self):
            raise OSError("still busy")

    trajectory = await play(Sticky())
    assert trajectory.status == "completed"
    assert 'environment "talk": close(): OSError: still busy (rollouts/test_episode.py:' in caplog.text


async def test_an_environment_that_hangs_in_close_is_left_behind(fakes, caplog, monkeypatch):
    class Stuck(fakes.Talk):
        async def close(self):
            await asyncio.Event().wait()

    monkeypatch.setattr(episode_module, "CLOSE_SECONDS", 0.05)
    trajectory = await play(Stuck())
    assert trajectory.status == "completed"
    assert 'environment "talk": close(): TimeoutError' in caplog.text


async def test_an_environment_that_is_neither_done_nor_speaks_is_an_error(fakes):
    class Silent(fakes.Talk):
        async def step(self, action):
            return StepResult()

    trajectory = await play(Silent())
    assert "step(): ValueError: it is not done but has nothing to say to the agent" in trajectory.error


@pytest.mark.parametrize("method", ["reset", "step"])
async def test_a_method_that_is_no_coroutine_is_said_in_words(fakes, method):
    environment = fakes.Talk()
    setattr(environment, method, lambda *_, **__: None)
    trajectory = await play(environment)
    assert f'{method}(): TypeError: it is a plain function; write "async def {method}"' in trajectory.error


async def test_a_cancellation_of_the_environments_own_is_its_failure(fakes):
    class Cancels(fakes.Talk):
        async def step(self, action):
            raise asyncio.CancelledError

    trajectory = await play(Cancels())
    assert (
        'environment "talk": step(): CancelledError: it awaited something that was cancelled (rollouts/'
        in trajectory.error
    )


async def test_an_environment_that_catches_its_cancellation_and_goes_on_is_left(fakes, monkeypatch):
    monkeypatch.setattr("grpo_sdk.deadline.GRACE_SECONDS", 0.02)

    class Stubborn(fakes.Talk):
        async def step(self, action):
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(5)

    trajectory = await play(Stubborn(), seconds=0.05)
    assert trajectory.error == "the episode took more than 0.05 s"


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("reset", None, "reset(): TypeError: it must return an Observation, not NoneType"),
        ("reset", ("Hi", {}), "reset(): TypeError: it must return an Observation, not tuple"),
        (
            "reset",
            Observation([{"role": "guest", "content": "Hi"}]),
            "reset(): ValueError: message 0 has the role",
        ),
        ("step", "Bye", "step(): TypeError: it must return a StepResult, not str"),
        ("step", StepResult(["Bye"]), "step(): ValueError: message 0 is 'Bye', not a dict"),
    ],
)
async def test_what_is_wrong_in_shape_is_said_in_words(fakes, method, given, said):
    async def give(*_, **__):
        return given

    environment = fakes.Talk()
    setattr(environment, method, give)
    trajectory = await play(environment)
    assert said in trajectory.error
    assert Trajectory.from_json(trajectory.to_json()).status == "failed"


async def test_an_environment_that_never_ends_is_ended_by_the_turn_limit_with_a_late_outcome(fakes):
    environment = fakes.Talk(*["Again"] * 100)
    agent = Agent(ScriptedBackend(), limits=AgentLimits(turns=5))
    trajectory = await play(environment, agent)
    assert (trajectory.status, trajectory.stop_reason, trajectory.error) == ("truncated", "turn_limit", None)
    assert len(trajectory.turns) == 5
    assert trajectory.outcome == {"heard": 5}
    assert trajectory.messages[-1] == user("Again")


async def test_a_late_outcome_that_fails_is_left_out(fakes, caplog):
    class Vague(fakes.Talk):
        def outcome(self):
            raise ValueError("unknown")

    trajectory = await play(Vague("1", "2"), Agent(ScriptedBackend(), limits=AgentLimits(turns=1)))
    assert (trajectory.status, trajectory.outcome) == ("truncated", {})
    assert 'environment "talk": outcome(): ValueError: unknown (rollouts/test_episode.py:' in caplog.text


async def test_a_context_that_is_used_up_truncates_and_keeps_the_ledger(fakes):
    tokenizer = fakes.PieceTokenizer()
    backend = fakes.TokenBackend(tokenizer, "hello", context=100)
    environment = fakes.Talk("Hi", "x" * 200)
    trajectory = await play(environment, Agent(backend, TemplateRenderer(tokenizer)))
    assert (trajectory.status, trajectory.stop_reason) == ("truncated", "context")
    assert "the context has 100; raise model.context" in trajectory.error
    assert trajectory.outcome == {"heard": 1}
    assert trajectory.ledger.sampled == len(backend.calls[0].reply.ids)
    assert environment.events[-1] == "close"


async def test_a_prompt_longer_than_the_context_truncates_before_the_first_turn(fakes):
    tokenizer = fakes.PieceTokenizer()
    backend = fakes.TokenBackend(tokenizer, "hello", context=10)
    trajectory = await play(fakes.Talk(), Agent(backend, TemplateRenderer(tokenizer)))
    assert (trajectory.status, trajectory.stop_reason, trajectory.turns) == ("truncated", "context", [])
    assert trajectory.ledger.sampled == 0


async def test_a_model_that_does_not_answer_fails_the_episode(fakes):
    agent = Agent(ScriptedBackend(latency=60), limits=AgentLimits(turn_seconds=0.05))
    trajectory = await play(fakes.Talk(), agent)
    assert (trajectory.status, trajectory.stop_reason) == ("failed", "turn_timeout")
    assert trajectory.error == "the model did not answer within 0.05 s"
    assert trajectory.messages == [user("Hello")]


@pytest.mark.parametrize("where", ["reset", "step"])
async def test_an_environment_that_hangs_is_ended_by_the_episodes_time(fakes, where):
    class Hanging(fakes.Talk):
        async def reset(self, task, *, seed):
            if where == "reset":
                await asyncio.Event().wait()
            return await super().reset(task, seed=seed)

        async def step(self, action):
            await asyncio.Event().wait()

    environment = Hanging()
    trajectory = await play(environment, seconds=0.1)
    assert (trajectory.status, trajectory.stop_reason) == ("failed", "episode_timeout")
    assert trajectory.error == "the episode took more than 0.1 s"
    assert environment.events[-1] == "close"


async def test_a_timeout_of_the_environments_own_is_its_error(fakes):
    class Remote(fakes.Talk):
        async def step(self, action):
            raise TimeoutError("the simulator gave up")

    trajectory = await play(Remote())
    assert trajectory.stop_reason == "error"
    assert "step(): TimeoutError: the simulator gave up" in trajectory.error


async def test_a_backend_that_raises_fails_the_episode_and_keeps_what_was_sampled(fakes):
    tokenizer = fakes.PieceTokenizer()
    backend = fakes.TokenBackend(tokenizer, "hello", RuntimeError("out of memory"))
    trajectory = await play(fakes.Talk("Hi", "And?"), Agent(backend, TemplateRenderer(tokenizer)))
    assert trajectory.status == "failed"
    assert trajectory.error.startswith('backend "TokenBackend": generate(): RuntimeError: out of memory (')
    assert trajectory.ledger.sampled == len(backend.calls[0].reply.ids)


async def test_an_endless_error_is_recorded_short(fakes):
    class Verbose(fakes.Talk):
        async def reset(self, task, *, seed):
            raise ValueError("x" * 1_000_000)

    error = (await play(Verbose())).error
    assert len(error) < 2000
    assert "test_episode.py:" in error, "the line is what helps"


async def test_cancellation_goes_through_and_closes_the_environment(fakes):
    environment = fakes.Talk()

    agent = Agent(ScriptedBackend(latency=60))
    task = asyncio.create_task(
        run_episode(agent, lambda: environment, REQUEST, environment_name="talk", seconds=30)
    )
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert environment.events == ["reset t", "close"]


async def test_the_first_traceback_of_each_kind_is_logged_and_with_verbose_all_are(
    fakes, caplog, monkeypatch
):
    monkeypatch.setattr(failures, "_logged", set())
    for _ in range(3):
        await play(failing(fakes, "step"))
    assert caplog.text.count("Traceback") == 1
    await play(failing(fakes, "reset"))
    assert caplog.text.count("Traceback") == 2
    with caplog.at_level(logging.DEBUG):
        await play(failing(fakes, "step"))
    assert caplog.text.count("Traceback") == 3


async def test_what_an_environment_reports_can_always_be_written(fakes):
    class Odd(fakes.Talk):
        async def step(self, action):
            return StepResult(done=True, outcome={"order": object(), "text": "\ud800"})

    read = Trajectory.from_json((await play(Odd())).to_json())
    assert read.outcome["order"].startswith("<object")
    assert read.outcome["text"] == "?"


@pytest.mark.parametrize("where", ["reset", "step", "end"])
async def test_an_environment_may_say_what_is_no_character(fakes, where):
    lone, whole = os.fsdecode(b"See \xff"), "See \ufffd"

    class Reader(fakes.Talk):
        async def reset(self, task, *, seed):
            return Observation([{"role": "user", "content": lone if where == "reset" else "Hi"}])

        async def step(self, action):
            self.heard.append(action)
            done = len(self.heard) == 2
            here = where == ("end" if done else "step")
            return StepResult([{"role": "user", "content": lone if here else "And?"}], done=done)

    tokenizer = fakes.PieceTokenizer()
    agent = Agent(fakes.TokenBackend(tokenizer, "Yes."), TemplateRenderer(tokenizer))
    trajectory = await play(Reader(), agent)
    assert trajectory.status == "completed"
    assert whole in [message["content"] for message in trajectory.messages]
    assert lone not in [message["content"] for message in trajectory.messages]
    assert Trajectory.from_json(trajectory.to_json()).messages == trajectory.messages


async def test_rewards_of_steps_are_summed(fakes):
    class Paid(fakes.Talk):
        async def step(self, action):
            result = await super().step(action)
            return StepResult(result.messages, result.done, result.outcome, 0.25)

    assert (await play(Paid("Hello", "And?"))).environment_reward == 0.5
    assert (await play(fakes.Talk())).environment_reward is None


async def test_a_steps_reward_that_is_no_number_fails_the_episode(fakes):
    class Paid(fakes.Talk):
        async def step(self, action):
            return StepResult(done=True, reward=float("nan"))

    played = await play(Paid())
    assert (played.status, played.environment_reward) == ("failed", None)
    assert "step(): ValueError: it gave the reward nan, which must be a finite number" in played.error


async def test_tools_may_be_fetched_by_a_coroutine(fakes):
    class Remote(fakes.Talk):
        async def tools(self):
            await asyncio.sleep(0)
            return [lookup]

    def lookup(order: str) -> str:
        """Find an order."""
        return f"{order} is packed"

    def script(messages, tools):
        called = messages[-1]["role"] == "tool"
        return (
            messages[-1]["content"]
            if called
            else assistant("", [tool_call("lookup", '{"order": "K1"}', "1")])
        )

    assert (await play(Remote(), Agent(ScriptedBackend(script=script)))).final_text == "K1 is packed"
