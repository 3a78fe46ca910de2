from __future__ import annotations

import copy

import pytest

from grpo_host.training.weights import merged_weights

pytestmark = pytest.mark.model


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("targets", "tied"),
    [("all-linear", False), ("all-linear", True), (["q_proj"], True), (["embed_tokens", "down_proj"], False)],
)
def test_merged_weights_are_those_that_peft_itself_would_merge(tiny, targets, tied):
    import torch

    policy = tiny.adapted(targets=targets, tie_word_embeddings=tied)
    merged = dict(merged_weights(policy))
    expected = copy.deepcopy(policy).merge_and_unload().state_dict()
    assert set(merged) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_names_and_shapes_are_those_of_the_base_model(tiny):
    base = tiny.model().state_dict()
    merged = dict(merged_weights(tiny.adapted()))
    assert list(merged) == list(base)
    assert {name: tensor.shape for name, tensor in merged.items()} == {n: t.shape for n, t in base.items()}


def test_a_merge_changes_what_the_adapter_changes_and_nothing_else(tiny):
    import torch

    base = tiny.model().state_dict()
    merged = dict(merged_weights(tiny.adapted(targets=["q_proj"])))
    for name, tensor in base.items():
        assert torch.equal(merged[name], tensor) is ("q_proj" not in name)


def test_a_new_adapter_changes_nothing(tiny):
    import torch

    base = tiny.model(dtype=torch.bfloat16).state_dict()
    policy = tiny.adapted(changed=False, dtype=torch.bfloat16)
    assert all(torch.equal(tensor, base[name]) for name, tensor in merged_weights(policy))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_base_weights_stay_bit_for_bit_however_often_they_are_merged(tiny, dtype):
    import torch

    policy = tiny.adapted(dtype=getattr(torch, dtype))
    before = state(policy)
    for _ in range(20):
        for _, tensor in merged_weights(policy):
            assert tensor.dtype == getattr(torch, dtype)
    after = policy.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_the_merged_model_says_what_the_policy_says(tiny):
    import torch

    policy = tiny.adapted().eval()
    served = tiny.model(seed=5).eval()
    served.load_state_dict(dict(merged_weights(policy)))
    ids = torch.arange(2, 20).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(served(ids).logits, policy(ids).logits, rtol=1e-4, atol=1e-4)


def test_merged_weights_carry_no_gradient(tiny):
    assert not any(tensor.requires_grad for _, tensor in merged_weights(tiny.adapted()))
