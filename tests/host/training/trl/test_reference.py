"""What the KL penalty is against, on a small random model and the real trainers."""

from __future__ import annotations

import dataclasses

import pytest

from grpo_host.config.schema import TrainingConfig, WarmStartConfig
from grpo_host.rollouts.scoring import WeightedReward
from grpo_sdk import reward
from grpo_sdk.testing import make_trajectory
from grpo_sdk.trajectory import Ledger, RewardRecord, TokenSequence

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
]

SHOWN = TokenSequence([2, 3, 10, 11, 1], [0, 0, 1, 1, 1], [0.0, 0.0, -4.0, -4.0, -4.0], [-1, -1, 0, 0, 0])
OTHER = TokenSequence([2, 3, 20, 21, 1], [0, 0, 1, 1, 1], [0.0, 0.0, -4.0, -4.0, -4.0], [-1, -1, 0, 0, 0])


def played(sequence, value):
    return dataclasses.replace(
        make_trajectory("x"), ledger=Ledger([sequence]), rewards={"r": RewardRecord(value)}, reward=value
    )


@pytest.fixture
def policy(tiny, tmp_path):
    """A policy that a warm start has taught."""
    from grpo_host.training.policy import Policy
    from grpo_host.training.warm_start import warm_start

    policy = Policy(tiny.adapted(changed=False), tiny.tokenizer(), "float32")
    warm_start(
        policy,
        [SHOWN] * 4,
        WarmStartConfig(epochs=1, batch=1, learning_rate=1e-2),
        directory=tmp_path / "warm",
        seed=0,
        micro_batch=1,
        on_step=lambda *_: None,
        check=lambda: None,
    )
    return policy


@pytest.fixture
def trainer(policy, tmp_path):
    """``trainer(reference)``: one that makes two steps from there."""
    from grpo_host.training.trl.grpo import grpo_arguments, make_trainer

    def trainer(reference):
        settings = TrainingConfig(
            beta=0.1, reference=reference, group_size=2, micro_batch=2, learning_rate=1e-2
        )
        arguments = grpo_arguments(
            settings, tmp_path, rows=2, steps=2, temperature=1.0, context=64, seed=0, saves=False
        )
        return make_trainer(
            policy,
            arguments,
            slots=range(2),
            rollout=lambda rows, trainer: [played(SHOWN, 1.0), played(OTHER, 0.0)],
            rewards=[WeightedReward("r", reward(lambda trajectory: 0.0)())],
            settings=settings,
        )

    return trainer


def penalties(trainer):
    trainer.train()
    return [line["kl"] for line in trainer.state.log_history if "loss" in line]


def test_from_the_start_nothing_is_left_yet_at_the_first_step(trainer):
    first, second = penalties(trainer("start"))
    assert first == pytest.approx(0, abs=1e-6)
    assert second > 1e-4


def test_the_base_model_has_been_left_by_the_warm_start(trainer):
    first, _ = penalties(trainer("base"))
    assert first > 1e-2


def test_a_resumed_run_is_still_held_to_where_it_began(trainer, policy, tmp_path):
    from grpo_host.training.trl.reference import penalise_from_start

    policy.save(tmp_path / "start")
    began = {name: p.detach().clone() for name, p in policy.model.named_parameters() if ".default." in name}
    penalties(trainer("base"))
    resumed = trainer("start")
    penalise_from_start(policy.model, tmp_path / "start")
    for name, weight in began.items():
        assert policy.model.get_parameter(name.replace(".default.", ".ref.")).equal(weight), name
    assert penalties(resumed)[0] > 1e-4


def test_a_run_that_began_with_a_new_adapter_is_held_to_the_base_model(trainer, policy):
    from grpo_host.training.trl.reference import has_reference, penalise_from_start

    resumed = trainer("start")
    assert has_reference(policy.model)
    penalise_from_start(policy.model, None)
    assert not has_reference(policy.model)
    assert penalties(resumed)[0] > 1e-2
