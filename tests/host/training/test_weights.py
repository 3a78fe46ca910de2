from __future__ import annotations

import copy

import pytest

from grpo_host.training.weights import merged_weights, served_weights
from grpo_sdk.errors import ModelError
from grpo_sdk.weights import VisibleUpdate

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


def small_update(tiny, **options):
    """A bfloat16 model whose adapter changes less than its weights' grid shows."""
    import torch

    policy = tiny.adapted(changed=False, dtype=torch.bfloat16, hidden_size=64, **options)
    policy.float()
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=2e-4)
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    return policy


def seen_logprobs(tiny, weights):
    """By a float32 model with ``weights``."""
    import torch

    model = tiny.model(hidden_size=64).eval()
    model.load_state_dict(dict(weights))
    ids = torch.randint(2, 60, (64, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logprobs = model(ids[:, :-1]).logits.log_softmax(-1)
    return logprobs.gather(-1, ids[:, 1:, None])


def test_a_small_update_is_seen_in_bfloat16_as_in_float32(tiny):
    import torch

    policy = small_update(tiny)
    before = seen_logprobs(tiny, plain(policy))
    wanted = seen_logprobs(tiny, merged_weights(copy.deepcopy(policy).float())) - before
    made = seen_logprobs(tiny, merged_weights(policy)) - before
    nearest = {
        name: weight.to(torch.bfloat16) for name, weight in merged_weights(copy.deepcopy(policy).float())
    }
    lost = seen_logprobs(tiny, nearest) - before
    assert share(made, wanted) == pytest.approx(1, abs=0.25)
    assert share(lost, wanted) < 0.6


def plain(policy):
    return {
        name.replace(".base_layer", ""): weight
        for name, weight in policy.get_base_model().state_dict().items()
        if "lora_" not in name
    }


def share(made, wanted):
    return float((made * wanted).sum() / wanted.square().sum())


def test_the_visible_update_says_how_much_of_it_the_weights_have(tiny):
    visible = VisibleUpdate()
    for _ in merged_weights(small_update(tiny), visible):
        pass
    assert visible.share == pytest.approx(1, abs=0.1)


def test_a_new_adapter_has_no_visible_update(tiny):
    visible = VisibleUpdate()
    list(merged_weights(tiny.adapted(changed=False), visible))
    assert visible.share is None


def test_the_same_adapter_gives_the_same_weights_every_time(tiny):
    policy = small_update(tiny)
    first, again = dict(served_weights(policy, "bfloat16")), dict(served_weights(policy, "bfloat16"))
    assert all(weight.equal(again[name]) for name, weight in first.items())


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"trainable_token_indices": [3, 4]},
    ],
    ids=str,
)
def test_other_adapters_are_merged_as_peft_merges_them(tiny, settings):
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    policy = get_peft_model(tiny.model(), LoraConfig(r=4, target_modules=["q_proj", "down_proj"], **settings))
    for parameter in policy.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    expected = copy.deepcopy(policy).merge_and_unload().state_dict()
    merged = dict(merged_weights(policy))
    assert set(merged) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("target", "other"), [("embed_tokens", "lm_head"), ("lm_head", "embed_tokens")], ids=str
)
@pytest.mark.filterwarnings("ignore:.*tie:UserWarning")
def test_an_adapter_on_a_tied_weight_is_refused_by_name(tiny, target, other):
    policy = tiny.adapted(targets=[target], tie_word_embeddings=True)
    with pytest.raises(ModelError, match=rf"changes .*{target}, whose weight is also that of .*{other}"):
        next(merged_weights(policy))


def test_an_adapter_that_is_no_weight_is_refused(tiny):
    from peft import PromptTuningConfig, get_peft_model

    policy = get_peft_model(tiny.model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ModelError, match="PROMPT_TUNING cannot be merged"):
        next(merged_weights(policy))
