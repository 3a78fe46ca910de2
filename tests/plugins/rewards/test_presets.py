"""Ready-made rewards rank replies as a person in that trade would."""

from __future__ import annotations

import pytest

from grpo_rewards.plugin import grpo_rewards
from grpo_sdk.testing import RewardContract, make_trajectory

PRESETS = ("customer_service", "technical_support", "sales", "tutoring")

# From best to worst.
RANKED = {
    "customer_service": (
        "I'm sorry that your parcel is late, and I understand how annoying that is. I will check with the carrier"
        " right away. Could you give me your order number, please?",
        "I'm sorry that it is late. Please give me your order number and I will check it.",
        "It is late because the carrier has a lot to do.",
        "That is not my problem, you idiot, so calm down and wait.",
    ),
    "technical_support": (
        "The error 500 usually means that the server ran out of memory. First open the log and look for the last"
        " error message, then restart the service with more memory. Let me know whether it still happens.",
        "Please restart the service, and then check whether the error is gone.",
        "Errors like this are unpleasant and come from the server.",
        "Works for me. Send me your root password and I will look myself.",
    ),
    "sales": (
        "What would you use the laptop for, and what is your budget? The light one saves you weight on the train,"
        " and it includes three years of service. Would you like to compare the two?",
        "The light one includes three years of service. Shall I send you a quote?",
        "We have two laptops in the shop, and both of them are good.",
        "Buy now, only today, you would be stupid to wait. Give me your card number.",
    ),
    "tutoring": (
        "Good start! Look at the second line: what happens to the sign when you move the three? Remember that both"
        " sides must stay equal, because it is an equation.",
        "Almost. Look at the sign in the second line, because it should change.",
        "Equations have two sides, and there is an x in this one.",
        "The answer is seven. Everyone knows that, are you stupid?",
    ),
}


@pytest.fixture(params=[None, pytest.param("sentence_model", marks=pytest.mark.model)])
def embedder(request):
    return request.param and request.getfixturevalue(request.param)


def scores(name, **options):
    reward = grpo_rewards()[name](**options)
    return [reward.score(make_trajectory(text)).value for text in RANKED[name]]


@pytest.mark.parametrize("name", PRESETS)
def test_replies_are_ranked_as_a_person_would(name, embedder):
    found = scores(name, embedder=embedder)
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.75
    assert found[0] - found[1] > 0.05
    assert found[-1] < 0.35


@pytest.mark.parametrize("name", PRESETS)
def test_expected_responses_raise_what_is_like_them(name, embedder):
    like, unlike = (
        scores(name, expected_responses=[text], embedder=embedder)[1]
        for text in (RANKED[name][1], "Photosynthesis.")
    )
    assert like > unlike


class PresetContract(RewardContract):
    name: str

    def make(self):
        return grpo_rewards()[self.name](expected_responses=["I will check your order."])


class TestCustomerService(PresetContract):
    name = "customer_service"


class TestTechnicalSupport(PresetContract):
    name = "technical_support"


class TestSales(PresetContract):
    name = "sales"


class TestTutoring(PresetContract):
    name = "tutoring"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_looks_at_safety(name):
    reward = grpo_rewards()[name](expected_responses=["Hello there."])
    assert {"safety", "similarity", "length"} < set(reward.shares)
    assert sum(reward.shares.values()) == pytest.approx(1.0)


def test_without_expected_responses_the_others_share_their_weight():
    reward = grpo_rewards()["sales"]()
    assert "similarity" not in reward.shares
    assert reward.shares["discovery"] == pytest.approx(0.4 / 0.85)


def test_weights_can_be_changed_and_components_left_out():
    reward = grpo_rewards()["sales"](weights={"discovery": 1.0, "empathy": 0})
    assert "empathy" not in reward.shares
    assert reward.shares["discovery"] == pytest.approx(1 / 1.4)


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ({"empaty": 1}, 'weights: no component "empaty". Did you mean "empathy"?'),
        ({"similarity": 1}, "weights: similarity needs expected_responses to compare with"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights, complaint):
    with pytest.raises(ValueError, match=complaint.replace("?", r"\?")):
        grpo_rewards()["customer_service"](weights=weights)
