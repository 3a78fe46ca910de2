"""Likeness to expected responses, by letters and by meaning, as a person would rank it."""

from __future__ import annotations

import pytest

from grpo_rewards.embedders import HashingEmbedder
from grpo_rewards.lexical import Runs, chrf
from grpo_rewards.similarity import SimilarityReward
from grpo_sdk import ConfigError, Task, assistant, user
from grpo_sdk.testing import RewardContract, make_trajectory

EXPECTED = ["I'll help you check your order status.", "You can return the item within 30 days."]

# better, worse; both methods must agree with a person here
SPELLED = {
    "the words themselves": ("I'll help you check your order status.", "The weather is lovely today."),
    "the words in another form": (
        "I will help you to check the status of your order.",
        "Good morning to you.",
    ),
    "one of several": ("Items can be returned within 30 days.", "Our shop is open on Sundays."),
    "half is better than none": ("I'll check it.", "Photosynthesis needs light."),
    "not padded": (
        "I'll help you check your order status.",
        "I'll help you check your order status. By the way, penguins live in the south, bananas are berries, and "
        "the tower was built in 1889 by an engineer who loved iron, bridges and long walks along the river.",
    ),
    "not repeated": (
        "I'll help you check your order status.",
        "I'll help you check your order status. " * 8,
    ),
    "not refused": ("I'll help you check your order status.", "I won't help you check your order status."),
    "not a heap of its words": (
        "I'll help you check your order status.",
        "status order status order help check return item item days days status order help",
    ),
    "a typing mistake is no other sentence": ("I'll help you chek your order staus.", "I like your shoes."),
}
# better, worse; letters cannot tell
MEANT = {
    "in other words": ("Let me look up where your parcel is.", "I'll help you paint your garden fence."),
    "in other words, again": (
        "You have a month to send it back to us.",
        "You can paint the wall within 30 days.",
    ),
    "a synonym": ("I'll find out how far your purchase has got.", "I'll find out how far it is to the moon."),
    "with a polite opening": (
        "Of course! Let me see how your order is coming along.",
        "Of course! Let me sing you a song about love.",
    ),
    "what is asked and what is answered": (
        "Happy to look into the progress of your order.",
        "Happy to look into the history of the Roman empire.",
    ),
    "refused in other words": ("Sure, I can look up your order.", "Sorry, I cannot look up your order."),
}


@pytest.fixture
def lexical():
    return SimilarityReward(expected_responses=EXPECTED, method="lexical")


def value(reward, text):
    return reward.score(make_trajectory(text)).value


class TestLexical(RewardContract):
    def make(self):
        return SimilarityReward(expected_responses=EXPECTED, method="lexical")


class TestWithAnEmbedder(RewardContract):
    def make(self):
        return SimilarityReward(expected_responses=EXPECTED, embedder=HashingEmbedder())


@pytest.mark.model
class TestEmbedding(RewardContract):
    @pytest.fixture(autouse=True)
    def _loaded(self, sentence_model):
        self.embedder = sentence_model

    def make(self):
        return SimilarityReward(expected_responses=EXPECTED, method="embedding", embedder=self.embedder)


@pytest.mark.parametrize("pair", SPELLED)
def test_letters_rank_as_a_person_would(pair, lexical):
    better, worse = SPELLED[pair]
    assert value(lexical, better) > value(lexical, worse) + 0.05


@pytest.mark.model
@pytest.mark.parametrize("pair", [*SPELLED, *MEANT])
def test_meaning_ranks_as_a_person_would(pair, sentence_model):
    better, worse = {**SPELLED, **MEANT}[pair]
    reward = SimilarityReward(expected_responses=EXPECTED, embedder=sentence_model)
    assert value(reward, better) > value(reward, worse) + 0.05


@pytest.mark.parametrize("text", ["?!…", "", "🙂"])
def test_what_says_nothing_is_like_nothing(text, lexical):
    assert value(lexical, text) == 0.0


def test_the_same_text_is_as_like_as_can_be(lexical):
    assert value(lexical, EXPECTED[1]) == 1.0


def test_the_score_is_the_mean_over_messages(lexical):
    said = [user("Hi"), assistant(EXPECTED[0]), user("And?"), assistant(EXPECTED[1])]
    assert lexical.score(make_trajectory(said)).value == 1.0
    said[3] = assistant("Penguins.")
    assert 0.5 <= lexical.score(make_trajectory(said)).value < 0.6


def test_a_message_that_was_said_before_counts_nothing(lexical):
    said = [user("Hi"), assistant(EXPECTED[0]), user("And?"), assistant(EXPECTED[0])]
    assert lexical.score(make_trajectory(said)).value == 0.5


@pytest.mark.parametrize("own", ["It will come on Friday.", ["On Friday.", "It will come on Friday."]])
def test_a_tasks_own_expected_response_goes_first(own, lexical):
    task = Task("t", {"expected_response": own})
    assert lexical.score(make_trajectory("It will come on Friday.", task=task)).value == 1.0
    assert lexical.score(make_trajectory(EXPECTED[0], task=task)).value < 0.5


def test_the_explanation_says_the_method_and_what_is_nearest(lexical):
    result = lexical.score(make_trajectory("You can return it within 30 days."))
    assert result.explanation.startswith(
        "similarity by lexical (chrF++), mean of 1 messages; nearest: 'You can"
    )


def test_letters_are_compared_if_there_is_no_embedder():
    assert SimilarityReward(expected_responses=EXPECTED).method == "lexical"


def test_meaning_without_an_embedder_is_refused():
    with pytest.raises(ConfigError, match=r'"embedding" needs a sentence model, .*agent-framework\[emb'):
        SimilarityReward(expected_responses=EXPECTED, method="embedding")


def test_with_nothing_to_compare_with_the_score_fails():
    with pytest.raises(
        ValueError, match="nothing to compare with: give it expected_responses, or tasks with"
    ):
        SimilarityReward(method="lexical").score(make_trajectory("Hi"))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"expected_responses": "Hello"}, "expected_responses is a list of texts, not 'Hello'"),
        ({"expected_responses": ["Hello", "!"]}, r"expected_responses\[1\] is '!'; it must say something"),
        ({"method": "magic"}, 'no method "magic"; methods are auto, embedding and lexical'),
    ],
)
def test_what_cannot_be_is_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        SimilarityReward(**options)


def test_chrf_is_symmetric_and_bounded():
    one, other = Runs("the order is late"), Runs("your order was late again")
    assert chrf(one, other) == chrf(other, one)
    assert 0.0 < chrf(one, other) < 1.0
    assert chrf(one, one) == 1.0
    assert chrf(one, Runs("")) == chrf(Runs(""), Runs("")) == 0.0
