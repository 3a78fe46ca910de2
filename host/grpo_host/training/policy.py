"""The policy that is trained: a model, with a PEFT adapter or whole, and how it gets to the backend."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_host.config.schema import LoraConfig as LoraSettings
from grpo_host.runs.directory import remedy
from grpo_host.training.ranks.process_group import Ranks
from grpo_host.training.ranks.sharding import check_layers, is_sharded, taking_whole_weights, whole_state
from grpo_host.training.weights import served_weights
from grpo_host.utils.atomic import replace_directory, sync_directory
from grpo_sdk.adapters import CONFIG, check_adapter, name_base
from grpo_sdk.backend import Backend, Capability, ModelSpec
from grpo_sdk.blocking import call_blocking
from grpo_sdk.deadline import Deadline
from grpo_sdk.errors import BusyError, CapabilityError, ModelError, RunError
from grpo_sdk.weights import VisibleUpdate, check_mergeable, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IDLE_SECONDS = 60.0
"""How long new weights wait for requests under way to end."""
SYNC_SECONDS = 900.0
"""How long a backend may take to load new weights, the wait above included."""
ADAPTER = CONFIG
"""In a directory of weights, tells an adapter from a whole model."""


@dataclass
class Policy:
    """A model in training."""

    model: PreTrainedModel
    """A PEFT model where an adapter is trained."""
    tokenizer: Any
    dtype: str = "bfloat16"
    """In which it is sampled from."""
    autocast: bool = False
    """Its float32 weights are multiplied in bfloat16."""
    version: int = 0
    """Counts the weights that the backend has been given."""
    visible_update: float | None = None
    """How much of the adapter's change is in the weights that the backend was given last; 1 is all."""
    hub_id: str | None = None
    """The base model's name on the hub: an adapter says by it what it belongs to, wherever caches lie."""
    ranks: Ranks = field(default_factory=Ranks)
    """Those that train it together: all of them send it, save it and load it."""

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is trained rather than the whole model."""
        return hasattr(self.model, "peft_config")

    async def sync(self, backend: Backend) -> None:
        """Make ``backend`` sample from the weights as they are now.

        Others may chat through it: their requests are waited for. Raises ``BusyError`` where there
        is no moment without one, and ``RunError`` if the backend does not come back. If ranks share an
        engine, rank 0 gives them to it.
        """
        limit = Deadline(SYNC_SECONDS)
        try:
            with limit:
                await self._sync(backend)
        except TimeoutError:
            if not limit.expired():
                raise
            raise RunError(
                f"the backend {type(backend).__name__} has not loaded the new weights within "
                f"{SYNC_SECONDS:g} s: it is stuck or dead. Run again with --resume"
            ) from None

    async def _sync(self, backend: Backend) -> None:
        self.version += 1
        if Capability.ADAPTER_SYNC in backend.capabilities:
            await self._sync_adapter(backend)
            return
        last = time.monotonic() + IDLE_SECONDS
        while True:
            try:
                visible = VisibleUpdate()
                weights = served_weights(self.model, self.dtype, visible)
                await backend.update_weights(weights, version=self.version)
                self.visible_update = visible.share
                return
            except BusyError:
                if time.monotonic() > last:
                    raise
            await asyncio.sleep(0.05)

    async def _sync_adapter(self, backend: Backend) -> None:
        if not self.has_adapter:
            raise CapabilityError(
                f"the backend {type(backend).__name__} takes new weights as LoRA adapters alone. Train one "
                "(training.lora), or use another backend"
            )
        with tempfile.TemporaryDirectory(prefix="grpo-adapter-") as folder:
            path = Path(folder) / "adapter"
            await call_blocking(self.save, path)
            if self.ranks.main:
                await backend.update_adapter(path, version=self.version)
        if self.ranks.size > 1:
            await call_blocking(self.ranks.broadcast, self.version)  # now the engine has it
            if not self.ranks.main:
                await backend.update_adapter(None, version=self.version)

    def save(self, path: Path) -> None:
        """Write the adapter, or the whole model with its tokenizer, at ``path``: whole or not at all.

        Rank 0 does it. Raises ``RunError``.
        """
        weights = whole_state(self.model, trained=self.has_adapter) if is_sharded(self.model) else None
        if not self.ranks.main:
            return
        partial = path.with_name(f".{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            if self.has_adapter:
                # Alone: a KL penalty's reference is an adapter of the same model.
                active = list(self.model.active_adapters)
                self.model.save_pretrained(str(partial), selected_adapters=active, state_dict=weights)
                if self.hub_id is not None:
                    name_base(partial, self.hub_id)
            else:
                # As it was trained: in float32 if that is mixed.
                self.model.save_pretrained(str(partial), state_dict=weights)
                self.tokenizer.save_pretrained(str(partial))
            sync_directory(partial)
            replace_directory(path, partial)
        except Exception as problem:  # a full disk has as many types as there are writers
            what = remedy(problem, path)
            shutil.rmtree(partial, ignore_errors=True)
            raise RunError(
                f"cannot write the {'adapter' if self.has_adapter else 'model'} to {path}: {problem}; what "
                f"was written before is kept. {what} and run again with --resume"
            ) from problem

    def try_saving(self, directory: Path) -> None:
        """Write all of the policy but its weights into ``directory`` and remove it, before a first step.

        Raises ``RunError`` for a model that its own library will not save.
        """
        try:
            with tempfile.TemporaryDirectory(dir=directory, prefix=".try-") as place:
                self.model.save_pretrained(place, state_dict={})
                self.tokenizer.save_pretrained(place)
        except Exception as problem:  # each library has errors of its own
            said = " ".join(str(problem).split()).rstrip(".")
            raise RunError(
                f"what is trained could not be saved in {directory}: {said}. "
                f"{remedy(problem, directory)} and begin again; nothing has been trained yet"
            ) from problem

    def load(self, path: Path) -> None:
        """Take the weights that ``save`` wrote. Raises ``RunError`` if they cannot be read."""
        weights = read_weights(path)
        with taking_whole_weights(self.model):
            if self.has_adapter:
                from peft import set_peft_model_state_dict

                set_peft_model_state_dict(self.model, weights)
                return
            self.model.load_state_dict(weights, strict=False)  # tied weights are written once
            self.model.tie_weights()


def read_weights(directory: Path) -> dict[str, Any]:
    """The tensors in ``directory``. Raises ``RunError`` if they cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights: dict[str, Any] = {}
    for file in sorted(directory.glob("*.safetensors")):
        try:
            weights |= load_file(file)
        except (OSError, SafetensorError) as problem:
            raise RunError(
                f"{file} is damaged: {problem}. Put it back from a copy, or delete {directory} and go on "
                "without it (--resume)"
            ) from problem
    if not weights:
        raise RunError(f"{directory} holds no weights. Put them back from a copy, or delete it")
    return weights


def load_policy(
    path: Path,
    *,
    dtype: str,
    lora: LoraSettings | None,
    adapter: Path | None,
    seed: int,
    mixed_precision: bool = True,
    load_in: str | None = None,
    hub_id: str | None = None,
    ranks: Ranks | None = None,
) -> Policy:
    """The model at ``path`` with the adapter at ``adapter``, or a new one that changes nothing yet.

    Without ``lora`` the whole model is trained, from the weights at ``adapter`` where that
    directory holds a whole model, or with the adapter there merged in. With ``mixed_precision`` the
    weights that are trained are float32 whatever ``dtype`` is. ``load_in``: as the setting. ``hub_id`` is
    the name of the model at ``path`` on the hub, ``ranks`` are those that train it. Raises ``ModelError`` if
    the adapter belongs to another model.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoTokenizer, set_seed

    from grpo_host.training.finite import first_nonfinite
    from grpo_host.training.lora_linear import round_once

    set_seed(seed)
    if adapter is not None and (adapter / ADAPTER).is_file():
        check_adapter(adapter, ModelSpec(str(path), path, hub_id=hub_id))
    whole = lora is None
    start, merged = path, None
    if whole and adapter is not None:
        start, merged = (path, adapter) if (adapter / ADAPTER).is_file() else (adapter, None)
    try:
        model = load_model(
            start,
            torch.float32 if whole and mixed_precision else getattr(torch, dtype),
            attn_implementation=_attention(),
            **_quantized(load_in, getattr(torch, dtype)),
        )
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, RuntimeError, KeyError) as problem:
        raise ModelError(f"cannot load the model at {start}: {problem}") from problem
    ranks = ranks or Ranks()
    if ranks.sharded:
        check_layers(model)
    # bitsandbytes has put it there; a model that is sharded comes there in parts.
    if torch.cuda.is_available() and load_in is None and not ranks.sharded:
        model = model.to("cuda")
    if lora is None:
        if merged is not None:
            adapted = PeftModel.from_pretrained(model, str(merged))
            check_mergeable(adapted)
            model = adapted.merge_and_unload()
        autocast = mixed_precision and dtype == "bfloat16"
        return Policy(model.requires_grad_(True), tokenizer, dtype, autocast, ranks=ranks)
    if adapter is not None:
        model = PeftModel.from_pretrained(
            model, str(adapter), is_trainable=True, autocast_adapter_dtype=mixed_precision
        )
    else:
        from grpo_host.training.lora import add_adapter

        model = add_adapter(model, lora, mixed_precision=mixed_precision)
    # Where it says a hub's name, each checkpoint would ask the hub for the model's configuration.
    model.peft_config[model.active_adapter].base_model_name_or_path = str(path)
    check_mergeable(model)
    found = first_nonfinite((name, p.detach()) for name, p in model.named_parameters() if p.requires_grad)
    if found:
        raise ModelError(
            f"the adapter at {adapter} is not finite (in {found}). Take another, or train it anew"
        )
    round_once(model)
    return Policy(model, tokenizer, dtype, hub_id=hub_id, ranks=ranks)


def _quantized(load_in: str | None, dtype: Any) -> dict[str, Any]:
    """What transformers is told; products are in ``dtype`` (of 8 bits: in float16)."""
    if load_in is None:
        return {}
    from transformers import BitsAndBytesConfig

    settings = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype} if load_in == "4bit" else {}
    return {"quantization_config": BitsAndBytesConfig(**{f"load_in_{load_in}": True}, **settings)}


def _attention() -> str:
    """Eager on CPU, since the fused kernel's backward is slower at the lengths trained there."""
    import torch

    return "sdpa" if torch.cuda.is_available() else "eager"
