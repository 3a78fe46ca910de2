"""LoRA layers that are rounded once: what PEFT's compute, and more of a small update."""

import copy

import pytest

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    torch = pytest.importorskip("torch")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no GPU")
    return request.param


def layer_of(device, *, dtype="bfloat16", bias=0.0, update=1e-4, **settings):
    """A frozen linear layer of 256 to 128 with an adapter of rank 4 that changes little."""
    import torch
    from peft import LoraConfig
    from peft.tuners.lora import Linear

    torch.manual_seed(0)
    base = torch.nn.Linear(256, 128, bias=bool(bias), dtype=getattr(torch, dtype)).requires_grad_(False)
    if bias:
        base.bias.fill_(bias)
    config = LoraConfig(r=4, lora_alpha=8, **settings)
    layer = Linear(base, "default", config, r=4, lora_alpha=8)
    layer.lora_A.float(), layer.lora_B.float()
    torch.nn.init.normal_(layer.lora_B["default"].weight, std=update)
    return layer.to(device)


def seen(layer, x):
    """The share of the adapter's change that the layer's output shows."""
    import torch

    with torch.no_grad():
        wanted = 2 * layer.lora_B["default"](layer.lora_A["default"](x.float()))
        change = layer(x).float() - layer.base_layer(x).float()
    return float((change * wanted).sum() / wanted.square().sum())


@pytest.mark.parametrize("bias", [0.0, 3.0])
def test_a_small_update_is_seen_by_a_bfloat16_layer_as_by_a_float32_one(device, bias):
    import torch

    from grpo_host.training.lora_linear import round_once

    layer = layer_of(device, bias=bias)
    x = torch.randn(2048, 256, device=device).bfloat16()
    assert seen(layer, x) < 0.7  # PEFT's own
    assert seen(round_once(layer), x) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("bias", [0.0, 3.0])
def test_outputs_and_gradients_are_those_of_pefts_layer(device, bias):
    import torch

    from grpo_host.training.lora_linear import round_once

    peft = layer_of(device, dtype="float32", bias=bias, update=0.3)
    ours = round_once(copy.deepcopy(peft))
    x = torch.randn(2, 5, 256, device=device)
    weights = torch.randn(2, 5, 128, device=device)
    found = []
    for layer in (peft, ours):
        given = x.clone().requires_grad_()
        out = layer(given)
        (out * weights).sum().backward()
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        found.append((out, given.grad, a.grad, b.grad))
    for theirs, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_a_disabled_adapter_is_left_out(device):
    import torch

    from grpo_host.training.lora_linear import round_once

    layer = layer_of(device, dtype="float32", update=0.3)
    x = torch.randn(3, 256, device=device)
    expected = layer(x)
    round_once(layer)
    torch.testing.assert_close(layer(x), expected)
    layer.enable_adapters(False)
    torch.testing.assert_close(layer(x), layer.base_layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.9}, {"use_dora": True}])
def test_what_is_more_than_a_product_takes_pefts_pass(device, settings):
    import torch

    from grpo_host.training.lora_linear import round_once

    layer = layer_of(device, dtype="float32", update=0.3, **settings).train()
    x = torch.randn(3, 256, device=device)
    torch.manual_seed(1)
    expected = layer(x)
    torch.manual_seed(1)
    torch.testing.assert_close(round_once(layer)(x), expected, rtol=0, atol=0)


def test_autocast_takes_pefts_pass(device):
    import torch

    from grpo_host.training.lora_linear import round_once

    layer = layer_of(device, dtype="float32", update=0.3)
    x = torch.randn(3, 256, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        torch.testing.assert_close(round_once(copy.deepcopy(layer))(x), layer(x), rtol=0, atol=0)
