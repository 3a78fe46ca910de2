from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from dataclasses import replace

import pytest

from grpo_host.agents.agent import Agent
from grpo_host.agents.rendering.template import TemplateRenderer
from grpo_host.rollouts.engine import RolloutEngine, RolloutMetrics, group_requests
from grpo_host.rollouts.episode import EpisodeRequest
from grpo_host.rollouts.scoring import RewardSet, WeightedReward
from grpo_sdk import Observation, Sampling, Task, TokenReply, assistant, derive_seed, reward, tool_call, user
from grpo_sdk.errors import RunError
from grpo_sdk.testing import ScriptedBackend, make_trajectory
from grpo_sdk.trajectory import Turn

TASKS = [Task("a"), Task("b"), Task("c")]


def requests(tasks=TASKS, samples=2):
    return group_requests(tasks, samples, seed=lambda task, n: derive_seed(1, task.id, n), label="1")


def engine(fakes, *, backend=None, environment=None, rewards=(), **options):
    return RolloutEngine(
        backend if isinstance(backend, Agent) else Agent(backend or ScriptedBackend()),
        environment or fakes.Talk,
        RewardSet([WeightedReward(f"r{i}", reward(function)()) for i, function in enumerate(rewards)]),
        environment_name="talk",
        **options,
    )


def run(engine, groups=None, **options):
    return asyncio.run(engine.run(requests() if groups is None else groups, **options))


def test_groups_come_back_in_their_order_with_rewards(fakes):
    groups, metrics = run(engine(fakes, rewards=[lambda t: 1.0]), policy_version=3)
    assert [[(t.task.id, t.sample) for t in group] for group in groups] == [
        [("a", 0), ("a", 1)], [("b", 0), ("b", 1)], [("c", 0), ("c", 1)],
    ]  # fmt: skip
    assert {t.reward for group in groups for t in group} == {1.0}
    assert {t.policy_version for group in groups for t in group} == {3}
    assert metrics.episodes == 6


def test_requests_are_seeded_by_task_and_sample():
    groups = requests()
    flat = [request for group in groups for request in group]
    assert len({request.seed for request in flat}) == 6
    assert [{r.environment_seed for r in group} for group in groups] == [
        {derive_seed(1, task.id, -1)} for task in TASKS
    ]
    assert [request.id for request in groups[1]] == ["1/1/b/0", "1/1/b/1"]


def test_a_task_that_comes_twice_has_other_samples_the_second_time():
    first, again = requests([TASKS[0], TASKS[0]])

    assert [request.sample for request in (*first, *again)] == [0, 1, 2, 3]
    assert len({request.seed for request in (*first, *again)}) == 4


def test_no_more_episodes_run_at_a_time_than_allowed(fakes):
    running, most = 0, 0

    class Counting(fakes.Talk):
        async def reset(self, task, *, seed):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.005)
            return await super().reset(task, seed=seed)

        async def close(self):
            nonlocal running
            running -= 1

    run(engine(fakes, environment=Counting, concurrency=4), requests(samples=6))
    assert most == 4
    assert running == 0


async def turns():
    """Let the loop do all that it can: nothing here waits for anything but the loop itself."""
    for _ in range(500):
        await asyncio.sleep(0)


class Held:
    """Environments whose episodes end when the test lets them."""

    def __init__(self, fakes):
        self.running = 0
        self.begun = 0
        self.end = asyncio.Semaphore(0)
        held = self

        class Waiting(fakes.Talk):
            async def reset(self, task, *, seed):
                held.running += 1
                held.begun += 1
                await held.end.acquire()
                return await super().reset(task, seed=seed)

            async def close(self):
                held.running -= 1

        self.make = Waiting

    async def release(self, count):
        for _ in range(count):
            self.end.release()
        await turns()


async def play_held(fakes, concurrency, script):
    """Run 12 episodes, and ``script(engine, held)`` beside them; it lets all of them end."""

    held = Held(fakes)
    running = engine(fakes, environment=held.make, concurrency=concurrency)
    task = asyncio.create_task(running.run(requests(samples=4)))
    await turns()
    await script(running, held)
    await held.release(12)
    _, metrics = await task
    assert metrics.statuses == {"completed": 12}
    assert running.active == 0


async def test_a_larger_concurrency_starts_waiting_episodes_at_once(fakes):
    async def script(running, held):
        assert held.running == running.active == 2
        running.concurrency = 5
        await turns()
        assert held.running == 5

    await play_held(fakes, 2, script)


async def test_a_smaller_concurrency_takes_effect_as_episodes_end(fakes):
    async def script(running, held):
        running.concurrency = 2
        assert held.running == 5, "what runs goes on"
        await held.release(3)
        assert (held.running, held.begun) == (2, 5)
        await held.release(1)
        assert (held.running, held.begun) == (2, 6)

    await play_held(fakes, 5, script)


@pytest.mark.parametrize("concurrency", [0, -1])
def test_a_concurrency_below_one_is_refused(fakes, concurrency):
    with pytest.raises(ValueError, match="at least one episode must run"):
        engine(fakes, concurrency=concurrency)


async def test_calls_of_run_share_the_concurrency(fakes):
    async def script(running, held):
        second = asyncio.create_task(running.run(requests(TASKS[:1], samples=1)))
        await asyncio.sleep(0.02)
        assert held.running == 3
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)

    await play_held(fakes, 3, script)


async def test_an_observer_that_raises_leaves_every_place_free(fakes):
    """Also those of episodes that were cancelled before they began."""

    def full(trajectory):
        raise OSError("full")

    running = engine(fakes, observers=[full], concurrency=3)
    for _ in range(20):
        with pytest.raises(OSError, match="full"):
            await running.run(requests(samples=4))
    assert running.active == 0


def test_episodes_share_the_backend_without_lockstep(fakes):
    """A turn of one episode never waits for the turns of another."""
    heard_by_slow, when_ended = [], {}

    class Uneven(fakes.Talk):
        async def reset(self, task, *, seed):
            if task.id == "slow":
                self.lines, self.heard = ("Hi",) * 7, heard_by_slow
            return await super().reset(task, seed=seed)

    tasks = [Task("slow"), *(Task(f"quick-{index}") for index in range(8))]
    run(
        engine(fakes, backend=ScriptedBackend(latency=0.03), environment=Uneven),
        requests(tasks, samples=1),
        on_episode=lambda t: when_ended.setdefault(t.task.id, len(heard_by_slow)),
    )
    assert when_ended.pop("slow") == 7
    assert len(when_ended) == 8
    assert max(when_ended.values()) <= 3  # 1 on an idle machine


def test_a_tool_of_one_episode_can_wait_for_the_end_of_another(fakes):
    over = asyncio.Event()
    ended = []

    def script(messages, tools):
        if messages[0]["content"] == "slow" and messages[-1]["role"] == "user":
            return assistant("", [tool_call("wait", "{}", "c")])
        return "Done."

    async def wait() -> str:
        """Wait for the other episode."""
        await over.wait()
        return ""

    def end(trajectory):
        ended.append((trajectory.task.id, trajectory.tool_errors))
        over.set()

    class Named(fakes.Talk):
        async def reset(self, task, *, seed):
            return Observation([user(task.id)])

    agent = Agent(ScriptedBackend(script=script), tools=(wait,))
    groups = requests([Task("slow"), Task("quick")], samples=1)
    run(engine(fakes, backend=agent, environment=Named), groups, on_episode=end)
    assert ended == [("quick", 0), ("slow", 0)]


def test_a_group_is_scored_when_its_last_episode_ends(fakes, eventually):
    order = []

    class Slow(fakes.Talk):
        async def reset(self, task, *, seed):
            if task.id == "slow":
                await eventually(lambda: order.count("scored quick") == 2)
            return await super().reset(task, seed=seed)

    def score(trajectory):
        order.append(f"scored {trajectory.task.id}")
        return 1.0

    run(
        engine(fakes, environment=Slow, rewards=[score]),
        requests([Task("slow"), Task("quick")], samples=2),
        on_episode=lambda t: order.append(f"ended {t.task.id}"),
    )
    assert order == ["ended quick"] * 2 + ["scored quick"] * 2 + ["ended slow"] * 2 + ["scored slow"] * 2


def test_one_failing_episode_leaves_its_siblings(fakes):
    made = []

    class Fragile(fakes.Talk):
        def __init__(self):
            super().__init__()
            made.append(self)
            self.number = len(made)

        async def step(self, action):
            if self.number == 2:
                raise OSError("lost")
            return await super().step(action)

    groups, metrics = run(engine(fakes, environment=Fragile, rewards=[lambda t: 1.0]))
    flat = [trajectory for group in groups for trajectory in group]
    assert [t.status for t in flat].count("failed") == 1
    assert sorted(t.reward or 0.0 for t in flat) == [0.0, 1, 1, 1, 1, 1]
    assert metrics.statuses == {"failed": 1, "completed": 5}
    assert metrics.as_dict()["failed"] == 1
    assert all(environment.events[-1] == "close" for environment in made)


async def test_cancellation_closes_every_environment(fakes, eventually):
    events: list[str] = []

    running = engine(
        fakes,
        backend=ScriptedBackend(latency=60),
        environment=lambda: fakes.Talk(events=events),
        concurrency=4,
    )
    task = asyncio.create_task(running.run(requests()))
    await eventually(lambda: len([event for event in events if event.startswith("reset")]) == 4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events.count("close") == 4


def test_observers_hear_of_every_scored_trajectory(fakes):
    heard, ended = [], []
    run(
        engine(fakes, rewards=[lambda t: 1.0], observers=[heard.append]),
        on_episode=ended.append,
    )
    assert [t.reward for t in heard] == [1.0] * 6
    assert [t.reward for t in ended] == [None] * 6


def test_what_an_observer_raises_goes_to_the_caller_as_it_is(fakes):
    def full(trajectory):
        raise OSError(28, "No space left on device")

    events: list[str] = []
    with pytest.raises(OSError, match="No space left on device"):
        run(engine(fakes, environment=lambda: fakes.Talk(events=events), observers=[full]))
    assert events.count("close") == len([event for event in events if event.startswith("reset")])


class Sampler:
    """Samples letters from the seed alone, as a real backend does."""

    @staticmethod
    def make(fakes):
        class Seeded(fakes.TokenBackend):
            async def generate(self, prompt, sampling: Sampling) -> TokenReply:
                await asyncio.sleep((sampling.seed % 5) / 1000)
                letter = 200 + sampling.seed % 20
                self.calls.append(sampling.seed)
                return TokenReply([letter, 1], [-1.0, -0.5], "stop")

        tokenizer = fakes.PieceTokenizer()
        return Agent(Seeded(tokenizer), TemplateRenderer(tokenizer))


def test_what_is_sampled_depends_neither_on_concurrency_nor_on_order(fakes):
    def sampled(concurrency):
        agent = Sampler.make(fakes)
        running = engine(
            fakes, backend=agent, environment=lambda: fakes.Talk("Hi", "And?"), concurrency=concurrency
        )
        groups, _ = run(running, requests(samples=4))
        return [[t.ledger for t in group] for group in groups], sorted(agent.backend.calls)

    assert sampled(1) == sampled(3) == sampled(32)


def test_metrics_count_the_episodes_that_a_reward_failed_for(fakes):
    def picky(trajectory):
        if trajectory.sample == 1:
            raise KeyError("answer")
        return 1.0

    _, metrics = run(engine(fakes, rewards=[picky]))
    assert metrics.as_dict()["reward_errors"] == metrics.episodes - len(metrics.rewards) == 3


def test_metrics_count_what_happened(fakes):
    def script(messages, tools):
        if messages[-1]["role"] == "user":
            return assistant("", [tool_call("good", "{}", "1"), tool_call("bad", "{}", "2")])
        return "three words here"

    def good() -> str:
        """Work."""
        return "fine"

    agent = Agent(ScriptedBackend(script=script), tools=(good,))
    running = engine(fakes, backend=agent)
    _, metrics = run(running)
    values = metrics.as_dict()
    assert (values["episodes"], values["turns_per_episode"]) == (6, 2)
    assert (values["tool_calls"], values["tool_errors"]) == (12, 6)
    assert values["sampled_tokens"] == 18
    assert values["stop/done"] == 6
    assert values["trajectories_per_second"] == pytest.approx(6 / values["seconds"])
    assert values["tokens_per_second"] == pytest.approx(18 / values["seconds"])


def test_metrics_tell_how_many_replies_were_cut_and_how_long_they_are():
    metrics = RolloutMetrics()
    turns = [Turn(10, 64, 0.1, "length"), Turn(10, 6, 0.1, "tool_calls"), Turn(10, 20, 0.1, "stop")]
    metrics.add(replace(make_trajectory("Hello"), turns=turns))
    values = metrics.as_dict()
    assert (values["cut"], values["tokens_per_turn"]) == (pytest.approx(1 / 3), 30)


def test_metrics_tell_how_much_of_a_reply_says_again_what_it_said_before():
    metrics = RolloutMetrics()
    metrics.add(replace(make_trajectory("the order is late " * 5), turns=[Turn(10, 20, 0.1, "stop")]))
    assert metrics.as_dict()["repetition"] == pytest.approx(13 / 17)
    metrics.add(replace(make_trajectory("Your order is late."), turns=[Turn(10, 20, 0.1, "stop")]))
    assert metrics.as_dict()["repetition"] == pytest.approx(13 / 34)


def test_metrics_of_nothing_are_zero():
    assert RolloutMetrics().as_dict()["trajectories_per_second"] == 0.0


def sometimes(*good):
    """A reward that scores only the episodes that are played as these, counted from 0."""
    played = []

    def score(trajectory):
        played.append(trajectory)
        if len(played) - 1 not in good:
            raise ConnectionError("the judge is not there")
        return 1.0

    return score


def test_so_many_episodes_in_a_row_without_a_reward_end_it_with_the_cause(fakes):
    seen = []
    failing = engine(
        fakes, rewards=[sometimes()], observers=[seen.append], max_consecutive_failures=4, concurrency=1
    )
    with pytest.raises(RunError) as error:
        run(failing)
    said = str(error.value)
    assert said.startswith(
        "4 episodes in a row have no reward (rollouts.max_consecutive_failures); what failed"
    )
    assert "most: reward r0: ConnectionError: the judge is not there (" in said
    assert said.endswith(". Mend it and run again (a training: with --resume)")
    assert len(seen) == 4, "they are on the record"


def test_what_ends_it_is_said_once_however_many_groups_it_ends(fakes, caplog):
    failing = engine(fakes, rewards=[sometimes()], max_consecutive_failures=2)
    for _ in range(2):
        with pytest.raises(RunError, match="2 episodes in a row"):
            run(failing)
    assert "beside what ends the run" not in caplog.text


def test_failures_with_a_success_between_them_end_nothing(fakes):
    groups, _ = run(engine(fakes, rewards=[sometimes(2)], max_consecutive_failures=4, concurrency=1))
    assert [item.reward for group in groups for item in group] == [None, None, 1.0, None, None, None]


def test_failures_in_a_row_are_counted_over_batches(fakes):
    failing = engine(fakes, rewards=[sometimes()], max_consecutive_failures=8, concurrency=1)
    run(failing)
    with pytest.raises(RunError, match="8 episodes in a row"):
        run(failing)


def test_no_groups_are_no_work(fakes):
    groups, metrics = run(engine(fakes), [])
    assert (groups, metrics.episodes) == ([], 0)


def test_forks_are_counted(fakes):
    """A template that numbers its messages cannot be extended: each later turn begins anew."""

    def numbered(messages):
        return "".join(
            f"<|im_start|>{i} {m['role']}\n{m['content']}<|im_end|>\n" for i, m in enumerate(messages)
        )

    tokenizer = fakes.PieceTokenizer(numbered)
    agent = Agent(fakes.TokenBackend(tokenizer, "hello"), TemplateRenderer(tokenizer))
    running = engine(fakes, backend=agent, environment=lambda: fakes.Talk("1", "2", "3"))
    [[trajectory]], metrics = run(running, [[EpisodeRequest(Task("t"))]])
    assert trajectory.ledger.forks == 2
    assert metrics.forks == metrics.as_dict()["forks"] == 2
    assert trajectory.ledger.sampled == sum(turn.completion_tokens for turn in trajectory.turns)


def test_no_template_that_can_be_extended_forks(fakes):
    tokenizer = fakes.PieceTokenizer()
    agent = Agent(fakes.TokenBackend(tokenizer, "hello"), TemplateRenderer(tokenizer))
    _, metrics = run(engine(fakes, backend=agent, environment=lambda: fakes.Talk("1", "2", "3")))
    assert metrics.forks == 0


def test_what_other_observers_raise_at_the_same_time_is_logged(fakes, caplog):
    def full(trajectory):
        raise OSError(28, f"No space left on device for {trajectory.task.id}")

    scoring, all_score = [], asyncio.Event()

    async def together(trajectory):
        scoring.append(trajectory)
        if len(scoring) == 6:
            all_score.set()
        await all_score.wait()
        return 1.0

    with pytest.raises(OSError, match="for a"):
        run(engine(fakes, rewards=[together], observers=[full]))
    assert "beside what ends the run: [Errno 28] No space left on device for b" in caplog.text


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_what_a_run_that_was_ended_has_played_is_freed_at_once(fakes, no_collector):
    there, steps = weakref.WeakSet(), []

    class Talk(fakes.Talk):
        async def step(self, action):
            there.add(self)
            steps.append(1)
            if len(steps) % 6 > 3:
                await asyncio.sleep(5)
            return await super().step(action)

    def full(trajectory):
        raise RunError("cannot write: the disk is full")

    for _ in range(2):
        with contextlib.suppress(RunError):  # pytest.raises would keep it
            await engine(fakes, environment=Talk, observers=[full]).run(requests())
        await asyncio.sleep(0)
        assert not list(there)
    assert len(steps) == 12


async def test_a_group_whose_reward_cancels_the_task_that_asks_it_is_not_left_out(fakes):
    @reward
    async def cancels(trajectory) -> float:
        asyncio.current_task().cancel()
        await asyncio.sleep(0)
        return 1.0

    running = engine(fakes)
    running.rewards = RewardSet([WeightedReward("cancels", cancels())])
    with pytest.raises(asyncio.CancelledError):
        await running.run(requests(TASKS, 1))
