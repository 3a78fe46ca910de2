"""Checkpoints of ranks that share the model, from which one goes on with any number of ranks, sharing or not.

Weights are in them as in any other checkpoint. accelerate would write all of them once more in a file of its
own, also where an adapter alone is trained, and refuse to go on without sharding. Of the optimizer's state
torch names the parameters where they are spread over ranks, and numbers them otherwise: the form that is
missing is made of the one that is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_host.training.ranks.sharding import is_sharded

NUMBERED, NAMED = "optimizer.pt", "optimizer.bin"
"""What transformers and accelerate call the optimizer's state."""


class ShardedCheckpoints:
    """Of a transformers ``Trainer`` whose model has been loaded from the checkpoint that it goes on from."""

    accelerator: Any
    optimizer: Any
    lr_scheduler: Any
    model: Any
    args: Any

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(self.model):
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
            return
        import torch
        from accelerate.utils import save_fsdp_optimizer

        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not is_sharded(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            if self.args.should_save:
                _complete(Path(checkpoint), self.model, self.optimizer)
            self.accelerator.wait_for_everyone()
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]


def _complete(checkpoint: Path, model: Any, optimizer: Any) -> None:
    """Write the form of the optimizer's state that ``model`` needs, if the other one is there alone."""
    import torch

    wanted, there = (NAMED, NUMBERED) if is_sharded(model) else (NUMBERED, NAMED)
    if (checkpoint / wanted).exists() or not (checkpoint / there).exists():
        return
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    state = torch.load(checkpoint / there, map_location="cpu", weights_only=True)
    keys = dict(enumerate(order)) if wanted == NAMED else {name: index for index, name in enumerate(order)}
    partial = checkpoint / f".{wanted}.partial"
    torch.save(_renamed(state, keys), partial)
    partial.replace(checkpoint / wanted)


def _renamed(state: Mapping[str, Any], keys: Mapping[Any, Any]) -> dict[str, Any]:
    """``state`` with other keys for its parameters."""
    return {
        "state": {keys[key]: value for key, value in state["state"].items()},
        "param_groups": [
            {**group, "params": [keys[key] for key in group["params"]]} for group in state["param_groups"]
        ],
    }
