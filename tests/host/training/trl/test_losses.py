"""Each loss, with episodes of one and of several rows, against one written by hand; a random Llama of two layers."""

from __future__ import annotations

import dataclasses
import statistics
from types import SimpleNamespace

import pytest

from grpo_host.config.schema import TrainingConfig
from grpo_host.rollouts.scoring import WeightedReward
from grpo_sdk import Task, reward
from grpo_sdk.testing import make_trajectory
from grpo_sdk.trajectory import Ledger, RewardRecord, TokenSequence, Turn

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
]

END = 1
CONTEXT = 64


def sequence(prompt, *parts):
    """Ids: ``prompt``, then ``parts`` in turn sampled and not."""
    ids, mask = list(prompt), [0] * len(prompt)
    for index, part in enumerate(parts):
        ids += part
        mask += [1 - index % 2] * len(part)
    return TokenSequence(ids, mask, [-4.0 if m else 0.0 for m in mask], [0 if m else -1 for m in mask])


SHORT = sequence([2, 3, 4], [10, 11, END])
LONG = sequence([2, 3, 4], [20, 21, 22, 23, 24, END])
TOOL = sequence([2, 3], [10, 12, END], [30, 31, 32, 33], [12, 13, END])
CUT = sequence([2, 3, 4], [40, 41, 42])


def trajectory(*sequences, status="completed", cut=False, **values):
    turn = Turn(3, 3, 0.1, "length" if cut else "stop")
    return dataclasses.replace(
        make_trajectory("x", task=Task("t"), status=status),
        ledger=Ledger(list(sequences)),
        turns=[turn],
        rewards={name: RewardRecord(value) for name, value in values.items()},
        reward=sum(values.values()),
    )


SINGLE = [trajectory(row, r=value) for row, value in ((SHORT, 0.0), (LONG, 1.0), (TOOL, 0.25), (CUT, 0.5))]
FORKED = [
    trajectory(LONG, TOOL, SHORT, r=0.0),
    trajectory(CUT, r=1.0),
    trajectory(TOOL, LONG, r=0.25),
    trajectory(SHORT, r=0.75),
]


@pytest.fixture
def trained(tiny, tmp_path):
    """``trained(batch, **settings)``: what one step adds to the adapter, and the trainer."""
    from grpo_host.training.policy import Policy
    from grpo_host.training.trl.grpo import grpo_arguments, make_trainer

    def trained(batch, **settings):
        names = list(batch[0].rewards)
        config = TrainingConfig(**{
            "group_size": 2, "micro_batch": 4, "optimizer": "sgd", "learning_rate": 1.0, "max_grad_norm": 1e9,
            "importance_sampling": "none", **settings,
        })  # fmt: skip
        policy = Policy(tiny.adapted(), tiny.tokenizer(), "float32")
        arguments = grpo_arguments(
            config, tmp_path, rows=len(batch), steps=1, temperature=1.0, context=CONTEXT, seed=0, saves=False
        )
        before = {n: p.detach().clone() for n, p in policy.model.named_parameters() if "lora_" in n}
        trainer = make_trainer(
            policy,
            arguments,
            slots=range(len(batch) // 2),
            rollout=lambda rows, trainer: batch,
            rewards=[WeightedReward(name, reward(lambda trajectory: 0.0)()) for name in names],
            settings=config,
        )
        trainer.train()
        moved = {n: p.detach() - before[n] for n, p in policy.model.named_parameters() if n in before}
        return SimpleNamespace(moved=moved, trainer=trainer, log=trainer.state.log_history[0])

    return trained


def logprobs(model, context):
    """Of each sampled token of ``context``, and the entropy there."""
    import torch

    said = torch.log_softmax(model(input_ids=torch.tensor([context.ids])).logits[0], dim=-1)
    places = [at for at, sampled in enumerate(context.mask) if sampled]
    chosen = torch.stack([said[at - 1, context.ids[at]] for at in places])
    return chosen, torch.stack([-(said[at - 1].exp() * said[at - 1]).sum() for at in places])


def advantages(batch, deviation=None):
    """Divided by the deviation of their group, or by ``deviation``."""
    import torch

    for start in range(0, len(batch), 2):
        rewards = torch.tensor([item.reward for item in batch[start : start + 2]])
        yield from ((rewards - rewards.mean()) / (deviation or rewards.std() + 1e-4)).tolist()


def by_hand(tiny, batch, divide, *, entropy_coef=0.0, beta=0.0, deviation=None):
    """The negative gradient of -sum of A log p(t), each token divided by ``divide(episode, batch)``."""
    import torch

    model = tiny.adapted()
    loss, entropies = torch.zeros(()), []
    for episode, advantage in zip(batch, advantages(batch, deviation), strict=True):
        for context in episode.ledger.sequences:
            chosen, entropy = logprobs(model, context)
            loss = loss - advantage * chosen.sum() / divide(episode, batch)
            entropies.append(entropy)
    loss = loss - entropy_coef * torch.cat(entropies).mean()
    loss.backward()
    return {n: -p.grad for n, p in model.named_parameters() if "lora_" in n}


def tokens(episode):
    return episode.ledger.sampled


DIVIDED = {
    "dapo": lambda episode, batch: sum(map(tokens, batch)),
    "cispo": lambda episode, batch: sum(map(tokens, batch)),
    "bnpo": lambda episode, batch: sum(map(tokens, batch)),  # if the batch is one micro-batch
    "grpo": lambda episode, batch: len(batch) * tokens(episode),
    "dr_grpo": lambda episode, batch: len(batch) * CONTEXT,
}


def assert_same(found, wanted):
    import torch

    assert found.keys() == wanted.keys()
    assert any(bool(value.any()) for value in wanted.values())
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-6)


def differ(one, other):
    import torch

    return any(not torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-7) for name in one)


@pytest.mark.parametrize(
    ("scale", "deviation"),
    [("none", 1.0), ("batch", statistics.stdev(item.reward for item in SINGLE) + 1e-4)],
)
def test_advantages_are_divided_as_scale_rewards_says(trained, tiny, scale, deviation):
    found = trained(SINGLE, scale_rewards=scale).moved
    assert_same(found, by_hand(tiny, SINGLE, DIVIDED["dapo"], deviation=deviation))


def test_a_gradient_above_the_largest_norm_is_scaled_down_to_it(trained):
    import torch

    whole, cut = (
        torch.cat([value.flatten() for value in trained(SINGLE, max_grad_norm=norm).moved.values()])
        for norm in (1e9, 0.01)
    )
    assert float(whole.norm()) > 0.02
    torch.testing.assert_close(cut, whole * (0.01 / whole.norm()), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("batch", [SINGLE, FORKED], ids=["one row", "several rows"])
@pytest.mark.parametrize("loss", DIVIDED)
def test_a_loss_is_the_one_by_hand_with_an_episode_of_several_rows_as_one(trained, tiny, loss, batch):
    assert_same(trained(batch, loss=loss).moved, by_hand(tiny, batch, DIVIDED[loss]))


@pytest.mark.parametrize(
    ("loss", "limit"),
    [("dapo", {"max_tokens": 25}), ("grpo", {"max_tokens": 25}), ("grpo", {"micro_batch": 2}),
     ("dr_grpo", {"micro_batch": 1})],
    ids=str,
)  # fmt: skip
def test_the_size_of_a_pass_does_not_change_the_loss(trained, tiny, loss, limit):
    assert_same(trained(FORKED, loss=loss, **limit).moved, by_hand(tiny, FORKED, DIVIDED[loss]))


def test_a_micro_batch_in_parts_is_still_one_for_bnpo(trained, tiny):
    assert_same(trained(FORKED, loss="bnpo", max_tokens=25).moved, by_hand(tiny, FORKED, DIVIDED["bnpo"]))


def test_no_pass_holds_more_tokens_than_it_may(trained, monkeypatch):
    from grpo_host.training.cpu import fast_pass

    sizes = []
    inner = fast_pass.score_tokens
    monkeypatch.setattr(
        fast_pass,
        "score_tokens",
        lambda model, ids, *rest: (sizes.append(ids.numel()), inner(model, ids, *rest))[1],
    )
    trained(FORKED, max_tokens=30)
    assert max(sizes) <= 30
    assert len(sizes) > 2


@pytest.mark.parametrize(("fast", "limit"), [(True, {}), (True, {"max_tokens": 25}), (False, {})], ids=str)
def test_the_entropy_bonus_is_the_mean_of_all_tokens(trained, tiny, monkeypatch, fast, limit):
    from grpo_host.training.cpu import fast_pass

    if not fast:
        monkeypatch.setattr(fast_pass, "packable_model", lambda _: None)
    found = trained(FORKED, entropy_coef=0.5, **limit).moved
    assert_same(found, by_hand(tiny, FORKED, DIVIDED["dapo"], entropy_coef=0.5))


def test_with_an_entropy_bonus_there_is_always_something_to_learn(trained):
    equal = [dataclasses.replace(item, reward=0.5, rewards={"r": RewardRecord(0.5)}) for item in SINGLE]
    assert any(value.any() for value in trained(equal, entropy_coef=0.5).moved.values())
    assert not any(value.any() for value in trained(equal).moved.values())


def test_tokens_of_low_entropy_can_be_left_out(trained, tiny):
    import torch

    model = tiny.adapted()
    entropies = torch.cat([logprobs(model, item.ledger.sequences[0])[1] for item in SINGLE]).detach()
    least = torch.quantile(entropies, 0.5)
    loss = torch.zeros(())
    for item, advantage in zip(SINGLE, advantages(SINGLE), strict=True):
        chosen, entropy = logprobs(model, item.ledger.sequences[0])
        loss = loss - advantage * chosen[entropy >= least].sum() / sum(map(tokens, SINGLE))
    loss.backward()
    wanted = {n: -p.grad for n, p in model.named_parameters() if "lora_" in n}
    assert_same(trained(SINGLE, top_entropy_quantile=0.5).moved, wanted)


def test_groups_that_teach_nothing_are_left_out_of_the_division(trained, tiny):
    equal = [trajectory(LONG, r=0.5), trajectory(TOOL, r=0.5)]
    batch = [*SINGLE[:2], *equal]
    for loss in ("dapo", "grpo"):
        assert_same(trained(batch, loss=loss).moved, by_hand(tiny, batch, DIVIDED[loss]))
        dropped = trained(batch, loss=loss, drop_equal_groups=True).moved
        assert_same(dropped, by_hand(tiny, batch[:2], DIVIDED[loss]))


def test_truncated_episodes_count_in_the_baseline_and_are_not_trained(trained, tiny):
    batch = [SINGLE[0], dataclasses.replace(SINGLE[1], status="truncated"), SINGLE[2], SINGLE[3]]
    batch[3] = trajectory(CUT, r=0.5, cut=True)
    found = trained(batch, mask_truncated_completions=True).moved

    import torch

    model = tiny.adapted()
    kept = [(batch[i], a) for i, a in enumerate(advantages(batch)) if i in (0, 2)]
    loss = torch.zeros(())
    for item, advantage in kept:
        loss = loss - advantage * logprobs(model, item.ledger.sequences[0])[0].sum()
    (loss / sum(tokens(item) for item, _ in kept)).backward()
    assert_same(found, {n: -p.grad for n, p in model.named_parameters() if "lora_" in n})


# Several rewards


TWO = [
    trajectory(SHORT, a=0.0, b=10.0), trajectory(LONG, a=1.0, b=0.0),
    trajectory(TOOL, a=0.0, b=3.0), trajectory(CUT, a=0.5, b=3.0),
]  # fmt: skip


def test_each_reward_can_be_normalised_in_its_group_first(trained, tiny, monkeypatch):
    """GDPO: the large reward no longer drowns the small one."""
    import torch

    found = trained(TWO, multi_objective_aggregation="normalize_then_sum").moved
    columns = torch.tensor([[item.rewards[name].value for name in "ab"] for item in TWO]).view(2, 2, 2)
    scaled = (columns - columns.mean(1, keepdim=True)) / (columns.std(1, keepdim=True) + 1e-4)
    sums = scaled.sum(-1).flatten()
    normal = ((sums - sums.mean()) / (sums.std() + 1e-4)).tolist()
    monkeypatch.setitem(globals(), "advantages", lambda *_: normal)
    assert_same(found, by_hand(tiny, TWO, DIVIDED["dapo"]))


def test_rewards_that_differ_one_by_one_and_not_in_sum_teach_only_what_is_normalised_first():
    from grpo_host.training.trl.rows import has_reward_variance

    group = [trajectory(SHORT, a=0.0, b=1.0), trajectory(LONG, a=1.0, b=0.0)]
    assert not has_reward_variance(group)
    assert has_reward_variance(group, each=True)


# Several updates a batch


def test_each_of_several_updates_has_its_part_of_the_batch(trained):
    """Two halves, one after the other: with a rate that moves next to nothing, the sum is that of the whole."""
    rate = {"learning_rate": 1e-4, "max_grad_norm": 1e9}
    whole = trained(SINGLE, **rate)
    halves = trained(SINGLE, minibatches=2, **rate)
    twice = trained(SINGLE, iterations=2, **rate)
    assert whole.trainer.state.global_step == 1
    assert halves.trainer.state.global_step == twice.trainer.state.global_step == 2
    for name, moved in whole.moved.items():
        # Each half is divided by the tokens of half a batch, on average.
        for updates in (twice, halves):
            assert float((updates.moved[name] - 2 * moved).norm()) < 0.05 * float((2 * moved).norm())


def test_the_ratio_is_to_the_policy_before_the_first_update_and_is_clipped_above_and_below(trained):
    settings = {"iterations": 3, "learning_rate": 0.5}
    free = trained(SINGLE, epsilon=0.99, epsilon_high=100.0, **settings)
    low = trained(SINGLE, epsilon=0.01, epsilon_high=100.0, **settings)
    high = trained(SINGLE, epsilon=0.99, epsilon_high=0.01, **settings)
    assert free.log["clip_ratio/region_mean"] == 0.0
    assert low.log["clip_ratio/low_mean"] > 0.0 == low.log["clip_ratio/high_mean"]
    assert high.log["clip_ratio/high_mean"] > 0.0 == high.log["clip_ratio/low_mean"]
    assert differ(low.moved, free.moved)
    assert differ(high.moved, free.moved)
    assert differ(low.moved, high.moved)


def test_cispo_clips_the_weight_and_no_token_loses_its_gradient(trained):
    settings = {"loss": "cispo", "iterations": 3, "learning_rate": 0.5}
    low, at_5 = trained(SINGLE, epsilon_high=1.001, **settings), trained(SINGLE, **settings)
    assert low.log["cispo_clip_ratio"] > at_5.log["cispo_clip_ratio"]
    assert differ(low.moved, at_5.moved)


@pytest.mark.parametrize("batch", [SINGLE, FORKED], ids=["one row", "several rows"])
def test_a_sequences_ratio_is_the_mean_of_its_tokens(trained, tiny, batch):
    """GSPO: before the first update the gradient is the tokens' own; after it the ratio is a row's."""
    once = {"loss": "grpo", "importance_sampling_level": "sequence"}
    assert_same(trained(batch, **once).moved, by_hand(tiny, batch, DIVIDED["grpo"]))
    several = {"loss": "grpo", "iterations": 3, "learning_rate": 0.5, "epsilon": 0.05}
    by_sequence = trained(batch, **several, importance_sampling_level="sequence")
    assert differ(by_sequence.moved, trained(batch, **several).moved)


def test_the_correction_for_the_engine_is_that_of_the_policy_that_sampled(trained):
    """After an update, what the engine said is still compared with the policy before it."""
    one = trained(SINGLE, importance_sampling="token_truncate", learning_rate=0.5)
    three = trained(SINGLE, importance_sampling="token_truncate", learning_rate=0.5, iterations=3)
    name = "sampling/importance_sampling_ratio/mean"
    assert three.log[name] == pytest.approx(one.log[name], rel=1e-5)


# What is not of the loss itself


def test_gradient_checkpointing_changes_no_gradient(trained, tiny):
    found = trained(SINGLE, gradient_checkpointing=True)
    assert found.trainer.model.get_base_model().is_gradient_checkpointing
    assert_same(found.moved, by_hand(tiny, SINGLE, DIVIDED["dapo"]))


def test_the_optimizers_settings_reach_it(trained):
    settings = {"optimizer": "adamw_torch", "adam_beta1": 0.5, "adam_beta2": 0.6, "weight_decay": 0.25}
    made = trained(SINGLE, **settings).trainer.optimizer
    assert type(getattr(made, "optimizer", made)).__name__ == "AdamW"
    group = made.param_groups[0]
    assert group["betas"] == (0.5, 0.6)
    assert {each["weight_decay"] for each in made.param_groups} >= {0.25}
    assert not group["fused"]


@pytest.mark.parametrize("updates", [{}, {"iterations": 3}], ids=str)
@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_the_rate_rises_over_the_warm_up(tmp_path, heavy, updates, schedule):
    import torch
    from transformers import get_scheduler

    from grpo_host.training.trl.grpo import grpo_arguments

    config = TrainingConfig(warmup_steps=2, lr_schedule=schedule, **updates)
    args = grpo_arguments(config, tmp_path, rows=32, steps=6, temperature=1.0, context=CONTEXT, seed=0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler(
        args.lr_scheduler_type, optimizer, args.get_warmup_steps(args.max_steps), args.max_steps
    )
    rates = []
    for _ in range(args.max_steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    per_step = rates[:: args.num_iterations]
    assert per_step[0] == 0.0
    assert per_step[1] == 0.5
    assert per_step[2] == 1.0
    assert per_step[3] == (1.0 if schedule == "constant" else 0.75)


def test_a_whole_model_is_held_near_to_a_second_one(tiny, tmp_path):
    """Not to what TRL finds where the model came from, which for a run that goes on is a checkpoint."""
    from grpo_host.training.policy import Policy
    from grpo_host.training.trl.grpo import grpo_arguments, make_trainer
    from grpo_host.training.trl.reference import penalise_from_policy

    def whole(change=0.0):
        model = tiny.model().requires_grad_(True)
        for parameter in model.parameters():
            parameter.data *= 1 + change
        return Policy(model, tiny.tokenizer(), "float32")

    whole().model.save_pretrained(tmp_path / "model")
    config = TrainingConfig(group_size=2, micro_batch=4, lora=None, beta=0.1, learning_rate=1e-3)

    def penalty(reference):
        policy = whole()
        policy.model.config._name_or_path = str(tmp_path / "model")
        trainer = make_trainer(
            policy,
            grpo_arguments(
                config, tmp_path, rows=4, steps=1, temperature=1.0, context=CONTEXT, seed=0, saves=False
            ),
            slots=range(2),
            rollout=lambda rows, trainer: SINGLE,
            rewards=[WeightedReward("r", reward(lambda trajectory: 0.0)())],
            settings=config,
        )
        penalise_from_policy(trainer, reference)
        trainer.train()
        return trainer.state.log_history[0]["kl"]

    assert penalty(whole()) == pytest.approx(0.0, abs=1e-6)
    assert penalty(whole(0.2)) > 1e-4
