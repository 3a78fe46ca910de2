"""The weights that a model samples with: adapters merged in, rounded so that small updates survive.

An update that is small beside its weight is lost if the sum is rounded to the nearest bfloat16.
``rounded`` goes up or down with the probability that keeps the sum right on average. What it draws
depends on the weight's name only: trainer, server and export make the same weights of the same adapter.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_sdk.errors import ModelError
from grpo_sdk.seeds import derive_seed

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

SAMPLED_ROWS = 8
"""``VisibleUpdate`` reads one row in so many: reading all costs a third of the merge."""


@dataclass
class VisibleUpdate:
    """Measures how much of the adapters' change is left in the merged and rounded weights."""

    seen: Any = 0.0
    """Sum over all weights: the change made, times the one wanted."""
    wanted: Any = 0.0
    """Sum over all weights: the square of the change wanted."""

    def add(self, before: torch.Tensor, exact: torch.Tensor, after: torch.Tensor) -> None:
        """Count a weight: ``before`` the merge, exactly merged, and rounded."""
        change = exact - before.float()
        self.seen = self.seen + ((after.float() - before.float()) * change).sum()
        self.wanted = self.wanted + change.square().sum()

    @property
    def share(self) -> float | None:
        """The projection of the change made onto the one wanted: 1 if nothing is lost. None without one."""
        return float(self.seen / self.wanted) if float(self.wanted) else None


def rounded(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """``tensor`` in ``dtype``, rounded up or down at random, right on average; ``name`` is the seed.

    What ``dtype`` can hold stays as it is.
    """

    tensor = tensor.detach()
    if tensor.is_floating_point() and dtype.itemsize < tensor.dtype.itemsize:
        tensor = tensor.clone()
    return _rounded_in_place(tensor, dtype, name)


def _rounded_in_place(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """``rounded``, for a ``tensor`` that nobody needs any more if it is wider than ``dtype``."""
    import torch

    if not tensor.is_floating_point():
        return tensor
    if dtype.itemsize >= tensor.dtype.itemsize:
        return tensor.to(dtype)
    exact = tensor.float().contiguous()
    draws = _draws(exact, derive_seed("rounding", name))
    if dtype == torch.bfloat16:  # the upper half of a float32
        bits = exact.view(torch.int32)
        return bits.add_(draws).bitwise_right_shift_(16).to(torch.int16).view(dtype)
    nearest = exact.to(dtype)
    error = exact - nearest.float()
    beyond = torch.nextafter(nearest, torch.where(error > 0, torch.inf, -torch.inf).to(dtype))
    gap = (beyond.float() - nearest.float()).abs()
    return torch.where(draws < error.abs() / gap * 2**16, beyond, nearest)


def _draws(like: torch.Tensor, seed: int) -> torch.Tensor:
    """Integers below 2**16 in the shape of ``like``."""
    import numpy as np
    import torch

    if like.device.type != "cpu":
        generator = torch.Generator(like.device).manual_seed(seed)
        return torch.randint(2**16, like.shape, generator=generator, device=like.device, dtype=torch.int32)
    # Several times faster than torch's generator on CPU.
    words = np.random.SFC64(seed).random_raw(-(-like.numel() // 4)).view(np.uint16)
    return torch.from_numpy(words[: like.numel()].astype(np.int32)).view(like.shape)


def rounded_weights(
    weights: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    """``weights`` of a model, in ``dtype``; those that share memory (tied) stay equal."""
    names: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in weights:
        own = tensor.to_local() if _is_shard(tensor) else tensor
        first = names.setdefault((own.data_ptr(), tensor.shape), name) if own.numel() else name
        yield name, rounded(_whole(tensor), dtype, first)


def merged_weights(
    model: PeftModel, visible: VisibleUpdate | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """``(name, tensor)`` of every base weight, under the base model's names, adapters merged.

    Each layer is merged as PEFT does it, in float32 and in a copy, and rounded to the base weight's
    dtype: the model itself is left alone. One that is spread over ranks comes together weight by weight,
    and each rank has to take all of them. Raises ``ModelError`` as ``check_mergeable`` does.
    """
    import torch

    check_mergeable(model)
    base = model.get_base_model()
    adapted = _adapted(base)
    merged = set()
    with torch.no_grad():
        for name, tensor in base.state_dict().items():
            owner = _owner(name, adapted)
            if owner is None:
                yield name, _whole(tensor)
            elif owner not in merged:
                merged.add(owner)
                before, after = _merge(_whole_module(adapted[owner]))
                for leaf, exact in after.items():
                    rows = exact[::SAMPLED_ROWS].clone()
                    weight = _rounded_in_place(exact, before[leaf].dtype, f"{owner}.{leaf}")
                    if visible is not None and exact is not before[leaf]:
                        visible.add(before[leaf][::SAMPLED_ROWS], rows, weight[::SAMPLED_ROWS])
                    yield f"{owner}.{leaf}", weight


def check_mergeable(model: PeftModel) -> None:
    """Raise ``ModelError`` if adapters train something that cannot be merged into the base model."""
    for config in model.peft_config.values():
        if config.is_prompt_learning:
            raise ModelError(
                f"an adapter of type {config.peft_type.value} cannot be merged into the model's weights, "
                "so it could be neither sampled from nor served. Use LoRA"
            )
    base = model.get_base_model()
    adapted = _adapted(base)
    places: dict[int, list[tuple[str, str | None]]] = {}
    for name, parameter in base.named_parameters(remove_duplicate=False):
        owner = _owner(name, adapted)
        places.setdefault(id(parameter), []).append((owner or name.rpartition(".")[0], owner))
    for shared in places.values():
        changed = next((owner for _, owner in shared if owner is not None), None)
        if changed is not None and len(shared) > 1:
            other = next(module for module, _ in shared if module != changed)
            raise ModelError(
                f"the adapter changes {changed}, whose weight is also that of {other} (tied): served as one "
                f'weight, it would not be the model that was trained. Leave "{changed.rpartition(".")[2]}" '
                "out of target_modules (training.lora.target_modules), or use a model that does not tie them"
            )


def load_model(path: Path, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """The causal language model in the directory ``path``, rounded by ``rounded`` if its files are float32.

    Raises what transformers raises.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if not stored_wider(path, dtype):
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **options)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options)
    for name, parameter in model.named_parameters():
        parameter.data = rounded(parameter, dtype, name)
    model.config.dtype = dtype
    return model


def stored_wider(path: Path, dtype: torch.dtype) -> bool:
    """Whether the files at ``path`` are float32, as those of a model trained whole, and ``dtype`` is less."""
    import torch
    from safetensors import safe_open

    found = False
    if dtype.itemsize < torch.float32.itemsize:
        for file in path.glob("*.safetensors"):
            with safe_open(file, framework="pt") as weights:
                if any(weights.get_slice(name).get_dtype() != "F32" for name in weights.keys()):  # noqa: SIM118
                    return False
                found = True
    return found


def stored_weights(path: Path, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights in the files at ``path``, in ``dtype``."""
    from safetensors.torch import load_file

    for file in sorted(path.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            yield name, rounded(tensor, dtype, name)


def _adapted(base: Any) -> dict[str, Any]:
    """Modules of ``base`` that PEFT has put in the place of its own, by their name."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    found: dict[str, Any] = {}
    for name, module in base.named_modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and _owner(name, found) is None:
            found[name] = module
    return found


def _owner(name: str, modules: Collection[str]) -> str | None:
    """Which of ``modules`` holds ``name``."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def _merge(module: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The state of the module that ``module`` stands for: as it was, and merged, in float32 of its own."""
    if hasattr(module, "get_base_layer"):
        before = dict(module.get_base_layer().state_dict())
        if (delta := _plain_delta(module)) is not None:
            return before, {**before, "weight": delta.float().add_(before["weight"])}
        whole = copy.deepcopy(module).float()
        whole.merge()
        return before, whole.get_base_layer().state_dict()
    whole = copy.deepcopy(module).float()
    merged = whole.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
    return module.original_module.state_dict(), merged.state_dict()


def _is_shard(tensor: torch.Tensor) -> bool:
    """Whether it is this rank's part of a tensor (a ``DTensor``)."""
    return hasattr(tensor, "full_tensor")


def _whole(tensor: Any) -> torch.Tensor:
    """The tensor itself, or all ranks' parts of it together."""
    whole: torch.Tensor = tensor.full_tensor() if _is_shard(tensor) else tensor
    return whole


def _whole_module(module: Any) -> Any:
    """``module``, or a copy with whole weights if they are spread over ranks."""
    from torch.nn import Parameter

    shards = [parameter for parameter in module.parameters() if _is_shard(parameter)]
    if not shards:
        return module
    # deepcopy takes what stands in its memo for the copy.
    return copy.deepcopy(module, {id(shard): Parameter(_whole(shard.detach()), False) for shard in shards})


def _plain_delta(module: Any) -> torch.Tensor | None:
    """What a plain LoRA layer adds to its weight: a merge without a copy of the layer takes half the time."""
    from peft.tuners.lora import Linear

    if type(module) is not Linear or module.merged:
        return None
    active = [name for name in module.active_adapters if name in module.lora_A]
    if not active or any(name in module.lora_variant or module.lora_bias[name] for name in active):
        return None
    first, *others = (module.get_delta_weight(name).float() for name in active)
    return sum(others, first)
