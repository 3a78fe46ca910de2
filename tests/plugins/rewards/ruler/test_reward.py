"""RULER with judges whose mistakes are known."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from grpo_rewards.ruler import JudgeError, RulerReward
from grpo_sdk import Backend, Capability, ContextOverflowError, ModelError, ModelSpec
from grpo_sdk.errors import CapabilityError
from grpo_sdk.testing import GroupRewardContract, ScriptedBackend, make_trajectory


def values(results):
    return [result.value for result in results]


class TestRuler(GroupRewardContract):
    @pytest.fixture(autouse=True)
    def _judge(self, judging):
        self.judging = judging

    def make(self):
        return RulerReward(self.judging.Judge(self.judging.fair))


def test_scores_come_back_in_the_order_of_the_group(judging):
    ruler, _ = judging.ruler()
    assert values(judging.score(ruler, judging.group(30, 90, 10, 60))) == [0.3, 0.9, 0.1, 0.6]


@pytest.mark.parametrize("seed", range(20))
def test_a_liking_for_early_positions_cancels(judging, seed):
    """The judge adds more to an answer the earlier it stands: far more than the answers differ by."""

    def biased(messages):
        shown = judging.records(messages)
        return judging.answer(
            {
                number: 0.4 * judging.quality(text) + 0.5 * (1 - place / len(shown))
                for place, (number, text) in enumerate(shown.items())
            }
        )

    worths = random.Random(seed).sample(range(0, 100, 3), 6)
    ruler, _ = judging.ruler(biased, seed=seed)
    results = values(judging.score(ruler, judging.group(*worths)))
    assert sorted(range(6), key=worths.__getitem__) == sorted(range(6), key=results.__getitem__)
    one_order, _ = judging.ruler(biased, seed=seed, orders=1)
    alone = values(judging.score(one_order, judging.group(*worths)))
    assert sorted(range(6), key=worths.__getitem__) != sorted(range(6), key=alone.__getitem__)


@pytest.mark.parametrize("seed", range(10))
def test_a_liking_for_the_first_alone_cancels_where_every_one_stands_first(judging, seed):
    def biased(messages):
        shown = judging.records(messages)
        return judging.answer(
            {n: 0.5 * judging.quality(text) + 0.5 * (n == "1") for n, text in shown.items()}
        )

    worths = random.Random(seed).sample(range(0, 100, 3), 4)
    ruler, judge = judging.ruler(biased, seed=seed, orders=8)
    results = values(judging.score(ruler, judging.group(*worths)))
    assert sorted(range(4), key=worths.__getitem__) == sorted(range(4), key=results.__getitem__)
    assert len(judge.prompts) == 8


def test_the_judge_sees_a_group_forwards_and_backwards(judging):
    ruler, judge = judging.ruler()
    judging.score(ruler, judging.group(1, 2, 3, 4, 5))
    first, second = (list(judging.records(prompt).values()) for prompt in judge.prompts)
    assert first == second[::-1]


def test_disagreement_between_orders_is_reported(judging):
    def first_wins(messages):
        shown = judging.records(messages)
        return judging.answer({number: float(number == "1") for number in shown})

    ruler, _ = judging.ruler(first_wins)
    for result in judging.score(ruler, judging.group(1, 2)):
        assert result.parts["disagreement"] == 1.0
        assert result.value == 0.5
    fair, _ = judging.ruler()
    assert all(r.parts["disagreement"] == 0.0 for r in judging.score(fair, judging.group(1, 2)))


def test_the_judges_explanations_are_kept(judging):
    ruler, _ = judging.ruler(orders=1)
    explanations = {result.explanation for result in judging.score(ruler, judging.group(1, 2))}
    assert explanations == {"why 1", "why 2"}


def test_identical_trajectories_are_judged_once_and_score_the_same(judging):
    ruler, judge = judging.ruler()
    assert values(judging.score(ruler, judging.group(80, 20, 80))) == [0.8, 0.2, 0.8]
    assert all(len(judging.records(prompt)) == 2 for prompt in judge.prompts)


def test_a_group_of_one_is_graded_by_itself_in_one_call(judging):
    ruler, judge = judging.ruler()
    assert values(judging.score(ruler, judging.group(70))) == [0.7]
    assert values(judging.score(ruler, judging.group(70, 70, 70))) == [0.7] * 3
    assert len(judge.prompts) == 1


def test_an_empty_group_takes_no_call(judging):
    ruler, judge = judging.ruler()
    assert judging.score(ruler, []) == []
    assert judge.prompts == []


def test_a_group_that_was_judged_takes_no_second_call(judging):
    ruler, judge = judging.ruler()
    first = judging.score(ruler, judging.group(10, 20, 30))
    again = judging.score(ruler, judging.group(30, 10, 20))
    assert sorted(values(first)) == sorted(values(again))
    assert values(again) == [0.3, 0.1, 0.2]
    assert (len(judge.prompts), ruler.usage.cached) == (2, 2)


@pytest.mark.parametrize("change", [{"rubric": "Brevity."}, {"max_chars": 600}])
def test_another_rubric_or_length_is_another_question(judging, change):
    class Shared(dict):
        def set(self, key, value, *, ttl=None):
            self[key] = value

    cache = Shared()
    first, judge = judging.ruler(cache=cache)
    judge.base_url = "http://judge.example"  # told apart by where it is, so that a cache can be shared
    judging.score(first, judging.group(10, 20))
    same, _ = judging.ruler(judge, cache=cache)
    judging.score(same, judging.group(10, 20))
    assert len(judge.prompts) == 2
    second, _ = judging.ruler(judge, cache=cache, **change)
    judging.score(second, judging.group(10, 20))
    assert len(judge.prompts) == 4


def test_another_judge_is_another_question(judging):
    class Shared(dict):
        def set(self, key, value, *, ttl=None):
            self[key] = value

    cache = Shared()
    for name, url in (
        ("one", "http://a"),
        ("two", "http://a"),
        ("two", "http://b"),
        ("two", None),
        ("two", None),
    ):
        judge = judging.Judge(judging.fair, name=name)
        if url:
            judge.base_url = url
        judging.score(judging.ruler(judge, cache=cache)[0], judging.group(10, 20))
        assert len(judge.prompts) == 2


def test_what_a_cache_holds_of_someone_else_is_asked_again(judging):
    class Odd:
        def get(self, key):
            return {"not": "ours"}

        def set(self, key, value, *, ttl=None): ...

    ruler, _ = judging.ruler(cache=Odd())
    assert values(judging.score(ruler, judging.group(10, 20))) == [0.1, 0.2]


def test_the_cache_is_bounded(judging):
    ruler, judge = judging.ruler(cache_size=2, orders=1)
    for worth in (10, 20, 30, 10):
        judging.score(ruler, judging.group(worth))
    assert len(judge.prompts) == 4


BAD = [
    "Both are good.",
    '{"1": 7, "2": 3}',
    '{"1": NaN, "2": 0.1}',
    '{"1": 0.5}',
    '{"1": 0.1, "2": 0.2, "9": 1}',
]


@pytest.mark.parametrize("bad", BAD)
def test_an_unusable_answer_is_corrected(judging, bad):
    ruler, judge = judging.ruler(lambda m: bad if len(m) == 2 else judging.fair(m), orders=1)
    assert values(judging.score(ruler, judging.group(40, 50))) == [0.4, 0.5]
    correction = judge.prompts[1]
    assert correction[2] == {"role": "assistant", "content": bad}
    assert "That answer cannot be used" in correction[3]["content"]
    assert ruler.usage.corrections == 1


@pytest.mark.parametrize("bad", BAD)
def test_a_judge_that_stays_unusable_fails_the_group(judging, bad):
    ruler, judge = judging.ruler(lambda m: bad, orders=1, corrections=2)
    with pytest.raises(JudgeError, match="gave no usable scores for 2 trajectories in 3 answers"):
        judging.score(ruler, judging.group(40, 50))
    assert len(judge.prompts) == 3
    assert ruler.usage.failures == 1


def test_a_correction_that_does_not_fit_fails_the_group(judging):
    def small(messages):
        if len(messages) > 2:
            raise ContextOverflowError("too long")
        return "no"

    ruler, judge = judging.ruler(small, orders=1)
    with pytest.raises(JudgeError, match="in 1 answer; of the last one: there is no JSON"):
        judging.score(ruler, judging.group(40, 50))
    assert len(judge.prompts) == 2


def test_one_order_without_scores_fails_the_group(judging):
    refused = []

    def half(messages):
        shown = list(judging.records(messages).values())
        refused.append(shown) if not refused else None
        return "no" if shown == refused[0] else judging.fair(messages)

    ruler, _ = judging.ruler(half)
    with pytest.raises(JudgeError):
        judging.score(ruler, judging.group(40, 50))


async def test_the_host_records_the_failure_on_every_trajectory(judging):
    from grpo_host.rollouts.scoring import RewardSet, WeightedReward

    ruler, _ = judging.ruler(lambda m: "no")
    rewards = RewardSet([WeightedReward("ruler", ruler)])
    for trajectory in await rewards.score(judging.group(40, 50)):
        assert trajectory.reward is None
        assert "JudgeError: the judge fake gave no usable scores" in trajectory.rewards["ruler"].error


def test_an_answer_that_was_cut_off_gets_more_room(judging):
    judge = judging.Judge(lambda m: '{"scores": [{"id": "1", "expl' if len(m) == 2 else judging.fair(m))
    judge.finish_reason = "length"
    ruler, _ = judging.ruler(judge, orders=1)
    judging.score(ruler, judging.group(40, 50))
    assert judge.samplings[1].max_tokens == 2 * judge.samplings[0].max_tokens
    assert "it was cut off" in judge.prompts[1][3]["content"]


def failing(judging, failures, problem):
    """A judge whose first ``failures`` calls raise ``problem``."""
    left = [failures]

    def say(messages):
        if left[0]:
            left[0] -= 1
            raise problem
        return judging.fair(messages)

    return say


def test_failures_on_the_way_are_tried_again(judging):
    ruler, judge = judging.ruler(failing(judging, 3, ConnectionError("reset")), orders=1, retries=3)
    assert values(judging.score(ruler, judging.group(40, 50))) == [0.4, 0.5]
    assert (len(judge.prompts), ruler.usage.retries, ruler.usage.calls) == (4, 3, 1)


def test_a_judge_that_cannot_be_reached_fails_the_group(judging):
    ruler, judge = judging.ruler(failing(judging, 99, ConnectionError("reset")), orders=1, retries=2)
    with pytest.raises(ConnectionError, match="reset"):
        judging.score(ruler, judging.group(40, 50))
    assert len(judge.prompts) == 3


def test_pauses_grow_between_attempts(judging, monkeypatch):
    pauses = []
    real = asyncio.sleep

    async def sleep(seconds):
        pauses.append(seconds)
        await real(0)

    monkeypatch.setattr("grpo_rewards.ruler.judge.asyncio.sleep", sleep)
    ruler, _ = judging.ruler(failing(judging, 3, ConnectionError("reset")), orders=1, pause=1.0)
    judging.score(ruler, judging.group(40, 50))
    waited = [seconds for seconds in pauses if seconds]
    assert len(waited) == 3
    assert all(0.5 * 2**n <= seconds <= 2**n for n, seconds in enumerate(waited))


def test_a_lasting_failure_is_not_tried_again(judging):
    ruler, judge = judging.ruler(failing(judging, 99, ModelError("no such model")), orders=1)
    with pytest.raises(ModelError):
        judging.score(ruler, judging.group(40, 50))
    assert len(judge.prompts) == 1


def test_a_group_that_is_too_long_for_the_judge_is_shown_shorter(judging):
    def small(messages):
        if len(messages[1]["content"]) > 3000:
            raise ContextOverflowError("too long")
        return judging.fair(messages)

    ruler, _ = judging.ruler(small, orders=1)
    group = [make_trajectory(f"worth {worth} " + "x" * 9000) for worth in (40, 50)]
    assert values(judging.score(ruler, group)) == [0.4, 0.5]


def test_a_context_that_is_too_small_for_anything_is_an_error(judging):
    ruler, _ = judging.ruler(failing(judging, 99, ContextOverflowError("too long")), orders=1)
    with pytest.raises(ContextOverflowError):
        judging.score(ruler, judging.group(40, 50))


def test_tokens_and_cost_are_counted(judging):
    ruler, _ = judging.ruler()
    judging.score(ruler, judging.group(40, 50))
    usage = ruler.usage
    assert (usage.groups, usage.calls, usage.prompt_tokens, usage.completion_tokens) == (1, 2, 200, 20)
    assert (usage.cost, usage.unpriced_calls) == (0.5, 0)


def test_calls_without_a_price_are_counted_apart(judging):
    judge = judging.Judge(judging.fair, cost=None)
    ruler, _ = judging.ruler(judge)
    judging.score(ruler, judging.group(40, 50))
    assert (ruler.usage.cost, ruler.usage.unpriced_calls) == (0.0, 2)


async def test_the_judge_starts_once_at_the_first_question(judging):
    ruler, judge = judging.ruler()
    assert judge.starts == 0

    await asyncio.gather(*(ruler.score_group(judging.group(n, n + 1)) for n in range(10)))
    await ruler.aclose()
    assert (judge.starts, judge.closed) == (1, 1)


def test_a_judge_that_cannot_chat_is_refused():
    class Mute(Backend):
        capabilities = frozenset({Capability.TOKEN_IDS})

    with pytest.raises(CapabilityError, match="the judge Mute cannot chat"):
        RulerReward(Mute(ModelSpec("mute")))


@pytest.mark.parametrize(
    "wrong", [{"orders": 0}, {"retries": -1}, {"corrections": -1}, {"max_chars": 10}, {"rubric": " "}]
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="ruler: "):
        RulerReward(ScriptedBackend(), **wrong)


def test_no_thread_is_left_behind(judging):
    before = threading.active_count()
    ruler, _ = judging.ruler()
    judging.score(ruler, judging.group(40, 50))
    ruler.close()
    assert threading.active_count() == before


@pytest.mark.model
async def test_the_embedded_model_judges_or_fails_cleanly(model_path):
    """Mechanics: a model of 135 million parameters is prompted, answers, is corrected, is counted."""
    from grpo_backends.transformers_engine import TransformersBackend
    from grpo_host.backends.on_demand import OnDemandBackend

    spec = ModelSpec("smollm2-135m", path=model_path, context=640)  # leaves it little to ramble
    ruler = RulerReward(OnDemandBackend(TransformersBackend(spec)), orders=1, corrections=1)
    group = [make_trajectory("I am sorry! I will send a new one today."), make_trajectory("Not my problem.")]

    async def judge():
        try:
            return await ruler.score_group(group)
        except JudgeError as problem:
            return str(problem)
        finally:
            await ruler.aclose()

    results = await judge()
    assert ruler.usage.calls >= 1
    assert ruler.usage.prompt_tokens > 400
    assert ruler.usage.completion_tokens > 0
    print(results)
    if isinstance(results, str):
        assert results.startswith("the judge smollm2-135m gave no usable scores for 2 trajectories in ")
    else:
        assert all(0.0 <= result.value <= 1.0 for result in results)
