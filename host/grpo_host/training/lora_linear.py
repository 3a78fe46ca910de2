"""LoRA layers that compute with their frozen weight and their adapter in one product, rounded once.

PEFT adds the adapter's product to one that is rounded to the model's precision already. In bfloat16
most of a small update rounds away there: the loss does not see what it has taught. Here the adapter's
product is what the frozen weight's accumulates onto (``beta * C + A @ B`` of a BLAS), so the sum is
rounded once, on CPU and on GPU, and the input is not copied in float32.

Adapters stay float32 parameters (an optimizer's small steps would vanish in bfloat16); their products
are taken in the model's precision.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

if TYPE_CHECKING:
    from torch import nn


class _LoraLinear(torch.autograd.Function):
    """``x weightᵀ + bias + scale · (x aᵀ) bᵀ``, with gradients for ``x``, ``a`` and ``b``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.size(-1))
        a_, b_ = a.to(x.dtype), (b * scale).to(x.dtype)
        low = rows @ a_.t()
        if bias is None:
            out = torch.addmm(low @ b_.t(), rows, weight.t())
        else:  # a bias may be large: an adapter's product that is rounded with it would be lost in it
            out = functional.linear(torch.cat([rows, low], dim=1), torch.cat([weight, b_], dim=1), bias)
        ctx.save_for_backward(rows, weight, a_, b_, low)
        ctx.scale, ctx.dtype = scale, a.dtype
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, a, b, low = ctx.saved_tensors
        out = grad.reshape(-1, grad.size(-1))
        grad_low = out @ b
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (out @ weight).addmm_(grad_low, a).view(*grad.shape[:-1], -1)
        grad_a = (grad_low.t() @ rows).to(ctx.dtype)
        grad_b = (out.t() @ low * ctx.scale).to(ctx.dtype)
        return grad_x, None, None, grad_a, grad_b, None


def round_once(model: nn.Module) -> nn.Module:
    """Let the LoRA layers of ``model`` add their adapter before they round. Returns ``model``.

    A layer that does more than this (dropout, several adapters, a variant such as DoRA, quantized
    weights, autocast) goes on as PEFT computes it.
    """
    from peft.tuners.lora import Linear

    for module in model.modules():
        if type(module) is Linear:
            module.forward = MethodType(_forward, module)
    return model


def _forward(layer: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
    active = layer.active_adapters
    name = active[0] if len(active) == 1 else None
    if (
        (args or options or layer.disable_adapters or layer.merged)
        or torch.is_autocast_enabled(x.device.type)
        or (name not in layer.lora_A or name in layer.lora_variant or layer.lora_bias[name])
        or (layer.training and getattr(layer.lora_dropout[name], "p", 0.0) > 0)
        or (layer.weight.requires_grad or layer.weight.dtype != x.dtype)
    ):
        return type(layer).forward(layer, x, *args, **options)
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return _LoraLinear.apply(x, layer.weight, layer.base_layer.bias, a, b, layer.scaling[name])
