"""What the learned reward learns. Trains, so it needs torch."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from grpo_host.models.sentence import embedder_available, sentence_embedder
from grpo_rewards.neural import NeuralReward, NotTrainedError
from grpo_sdk import ModelError, Trajectory, assistant, user
from grpo_sdk.testing import RewardContract, make_trajectory

pytest.importorskip("torch")
pytestmark = pytest.mark.model

OPTIONS = {"embedder": "hashing", "update_frequency": 10_000, "embedding_dim": 32, "hidden_dim": 64}


def taught(feedback, **options):
    reward = NeuralReward(**{**OPTIONS, **options})
    for turns, score in feedback:
        reward.add_trajectory_feedback(turns, score)
    reward.update()
    return reward


def values(reward, conversations):
    return [reward.score(make_trajectory(turns)).value for turns in conversations]


def right(reward, pairs):
    """The share of pairs that are put in the right order, by kind and of all."""
    kinds = {}
    for better, worse, kind in pairs:
        first, second = values(reward, (better, worse))
        kinds.setdefault(kind, []).append(first > second)
    flat = [ok for oks in kinds.values() for ok in oks]
    return {kind: sum(oks) / len(oks) for kind, oks in kinds.items()}, sum(flat) / len(flat)


@pytest.fixture(scope="module")
def first(preferences):
    return preferences.feedback(preferences.FIRST, 200, 0)


@pytest.fixture(scope="module")
def trained(first):
    return taught(first)


class TestTrained(RewardContract):
    @pytest.fixture(autouse=True)
    def _reward(self, trained):
        self.reward = trained

    reads_other_messages = True

    def make(self):
        return self.reward


def test_the_worlds_share_no_content_words(preferences):
    assert preferences.content_words(preferences.FIRST).isdisjoint(
        preferences.content_words(preferences.SECOND)
    )


@pytest.mark.slow
@pytest.mark.skipif(not embedder_available(), reason="no sentence model is installed")
@pytest.mark.parametrize(("here", "there"), [("FIRST", "SECOND"), ("SECOND", "FIRST")])
def test_with_a_sentence_model_it_ranks_replies_of_unseen_words(preferences, here, there):
    feedback = preferences.feedback(getattr(preferences, here), 200, 0)
    reward = NeuralReward(sentence_model=sentence_embedder(), update_frequency=50, seed=0)
    for turns, score in feedback:
        reward.add_trajectory_feedback(turns, score)
    assert reward.ready
    kinds, overall = right(reward, preferences.pairs(getattr(preferences, there), 120, 100))
    assert overall >= 0.85, kinds


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("here", "there"), [("FIRST", "SECOND"), ("SECOND", "FIRST")])
def test_without_one_it_tells_help_from_no_help_in_unseen_words(preferences, here, there, seed):
    reward = taught(preferences.feedback(getattr(preferences, here), 200, seed), seed=seed)
    pairs = preferences.pairs(getattr(preferences, there), 420, 100 + seed)
    clear = [pair for pair in pairs if pair[2] not in ("good over fair", "useless over rude")]
    kinds, overall = right(reward, clear)
    assert overall >= 0.8, kinds


def test_without_one_it_ranks_unseen_replies_of_known_words(preferences, trained, first):
    seen = {turns[1]["content"] for turns, _ in first}
    pairs = preferences.pairs(preferences.FIRST, 420, 7)
    unseen = [pair for pair in pairs if not {pair[0][1]["content"], pair[1][1]["content"]} & seen]
    kinds, overall = right(trained, unseen)
    assert len(unseen) > 60
    assert overall >= 0.9, kinds


def test_scores_are_calibrated(preferences, trained):
    fresh = preferences.feedback(preferences.FIRST, 200, 9)
    scores = values(trained, [turns for turns, _ in fresh])
    assert all(0.0 <= score <= 1.0 for score in scores)
    for low in (0.0, 0.25, 0.5, 0.75):
        found = [(s, y) for s, (_, y) in zip(scores, fresh, strict=True) if low <= s < low + 0.25]
        if len(found) >= 20:
            said, true = (sum(column) / len(found) for column in zip(*found, strict=True))
            assert said == pytest.approx(true, abs=0.15)


def test_the_held_out_error_is_that_of_new_feedback(preferences, trained):
    fresh = preferences.feedback(preferences.FIRST, 200, 9)
    scores = values(trained, [turns for turns, _ in fresh])
    error = sum(abs(s - y) for s, (_, y) in zip(scores, fresh, strict=True)) / len(fresh)
    assert trained.held_out_error == pytest.approx(error, abs=0.05)
    assert trained.held_out_error < trained.report()["held_out"]["baseline"] / 2


def test_it_explains_its_score(trained):
    result = trained.score(make_trajectory("I'm sorry about that. I'll send you a new one today."))
    assert result.explanation.startswith("learned from 200 feedbacks, held-out error 0.")
    assert set(result.parts) == {"logit", "spread"}


def test_the_same_feedback_and_seed_give_the_same_scores(first, trained):
    conversations = [turns for turns, _ in first[:20]]
    assert values(taught(first), conversations) == values(trained, conversations)
    assert values(taught(first, seed=1), conversations) != values(trained, conversations)


def test_scores_made_up_at_random_are_not_learned(first):
    rng = random.Random(0)
    reward = taught([(turns, rng.random()) for turns, _ in first])
    assert not reward.ready
    with pytest.raises(NotTrainedError, match="held-out"):
        reward.score(make_trajectory("Hello."))


def test_feedback_that_is_all_alike_teaches_nothing(first):
    reward = taught([(turns, 0.9) for turns, _ in first])
    assert "there is nothing to tell apart" in reward.report()["reason"]


def test_one_conversation_many_times_teaches_nothing(first):
    turns = first[0][0]
    reward = taught([(turns, index % 2) for index in range(60)])
    assert "too few different conversations" in reward.report()["reason"]


def test_it_learns_every_so_many_feedbacks(first):
    reward = NeuralReward(**{**OPTIONS, "update_frequency": 50})
    counts = []
    for turns, score in first[:120]:
        reward.add_trajectory_feedback(turns, score)
        counts.append(reward.report()["updates"])
    assert [counts[index] for index in (48, 49, 98, 99, 119)] == [0, 1, 1, 2, 2]


async def test_feedback_that_comes_faster_than_it_learns_waits_for_one_lesson(first):
    reward = NeuralReward(**{**OPTIONS, "update_frequency": 1})

    for turns, score in first[:60]:
        reward.add_trajectory_feedback(turns, score)
    await reward.settled()
    assert reward.report()["feedback"] == 60
    assert 1 <= reward.report()["updates"] < 30
    assert reward.report()["learned_from"] > 0


def test_it_unlearns_what_falls_out_of_the_buffer(first):
    flipped = [(turns, 1.0 - score) for turns, score in first]
    reward = taught([*flipped, *first], buffer_size=200)
    assert reward.report()["buffered"] == 200
    assert reward.report()["feedback"] == 400
    assert values(reward, [first[0][0]]) == values(taught(first), [first[0][0]])


async def test_training_leaves_the_event_loop_free(first):
    reward = NeuralReward(**{**OPTIONS, "update_frequency": 100})

    for turns, score in first[:100]:
        reward.add_trajectory_feedback(turns, score)
    before = reward.report()["updates"]
    ticks = 0
    waiting = asyncio.ensure_future(reward.settled())
    while not waiting.done():
        await asyncio.sleep(0.001)
        ticks += 1
    ready = reward.ready
    assert before == 0
    assert ticks > 1, "training that blocked the loop would leave it one"
    assert ready


async def test_it_can_be_updated_from_a_coroutine(first):
    reward = NeuralReward(**OPTIONS)
    for turns, score in first:
        reward.add_trajectory_feedback(turns, score)
    assert (await reward.aupdate())["ready"]


async def test_a_training_that_fails_in_the_background_is_told(first, monkeypatch):
    def broken(*args, **options):
        raise MemoryError("no room")

    reward = NeuralReward(**{**OPTIONS, "update_frequency": 50})
    monkeypatch.setattr("grpo_rewards.neural.training.train_head", broken)

    for turns, score in first[:50]:
        reward.add_trajectory_feedback(turns, score)
    await reward.settled()
    assert reward.report()["problem"] == "MemoryError: no room"
    assert not reward.ready


def test_feedback_and_scores_from_many_threads(first, trained):
    reward = NeuralReward(**{**OPTIONS, "update_frequency": 40})

    def give(item):
        reward.add_trajectory_feedback(*item)
        return trained.score(make_trajectory(item[0])).value

    with ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(give, first))
    assert scores == values(trained, [turns for turns, _ in first])
    assert (reward.report()["feedback"], reward.report()["updates"]) == (200, 5)


def test_what_was_saved_scores_the_same(first, trained, tmp_path):
    trained.save(tmp_path / "made" / "reward.safetensors")
    again = NeuralReward(path=str(tmp_path / "made" / "reward.safetensors"), update_frequency=10_000)
    conversations = [turns for turns, _ in first[:20]]
    assert values(again, conversations) == values(trained, conversations)
    assert again.held_out_error == trained.held_out_error
    assert {**again.report(), "update_seconds": 0} == {**trained.report(), "update_seconds": 0}


def test_what_was_saved_goes_on_learning(first, tmp_path):
    half = taught(first[:100])
    half.save(tmp_path / "half.safetensors")
    again = NeuralReward(path=str(tmp_path / "half.safetensors"), update_frequency=10_000)
    for turns, score in first[100:]:
        again.add_trajectory_feedback(turns, score)
    again.update()
    assert values(again, [first[0][0]]) == values(taught(first), [first[0][0]])


def test_texts_of_the_feedback_are_not_saved(first, trained, tmp_path):
    trained.save(tmp_path / "reward.safetensors")
    data = (tmp_path / "reward.safetensors").read_bytes()
    assert not any(turn["content"].encode() in data for turns, _ in first for turn in turns)


def test_feedback_alone_can_be_saved(first, tmp_path):
    few = taught(first[:10])
    few.save(tmp_path / "few.safetensors")
    again = NeuralReward(path=str(tmp_path / "few.safetensors"))
    assert again.report()["reason"] == "it has 10 of the 40 feedbacks that it needs"


def test_a_saved_reward_scores_without_torch(trained, tmp_path):
    trained.save(tmp_path / "reward.safetensors")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from grpo_rewards.neural import NeuralReward\n"
        "from grpo_sdk.testing import make_trajectory\n"
        f"print(NeuralReward(path={str(tmp_path / 'reward.safetensors')!r}).score(make_trajectory('Hello.')).value)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(trained.score(make_trajectory("Hello.")).value)


def test_a_file_whose_arrays_are_cut_off_is_an_error(trained, tmp_path):
    path = tmp_path / "reward.safetensors"
    trained.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="does not load"):
        NeuralReward(path=str(path)).score(make_trajectory("Hello."))


def test_a_file_whose_arrays_do_not_fit_is_an_error(trained, tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    path = tmp_path / "reward.safetensors"
    trained.save(path)
    with safe_open(path, "np") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    arrays["head.outer"] = arrays["head.outer"][:, :-1].copy()
    save_file(arrays, path, metadata)
    with pytest.raises(ModelError, match=r"inner is of shape|outer is of shape"):
        NeuralReward(path=str(path)).score(make_trajectory("Hello."))


def test_a_file_of_feedback_is_learned_from_before_the_first_score(tmp_path):
    rows = [
        {"messages": [user(f"question {n}"), assistant(said)], "score": score, "context": {"model": "m"}}
        for n in range(30)
        for said, score in ((f"Gladly, it is done: order {n}.", 1.0), ("No. Go away.", 0.0))
    ]
    path = tmp_path / "feedback.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = NeuralReward(**OPTIONS, feedback=path)
    kind, rude = (
        reward.score(Trajectory.of_messages([user("question 99"), assistant(said)]))
        for said in ("Gladly, it is done: order 99.", "No. Go away.")
    )
    assert kind.value > 0.7 > 0.3 > rude.value
