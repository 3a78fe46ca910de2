"""Average the gradients of several ranks if the pass through the model is our own.

The wrapper that averages gradients (DistributedDataParallel) does so only for passes that go
through its own forward, which the pass of ``cpu.fast_pass`` does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class AveragedGradients:
    """Of a transformers ``Trainer``: averages over ranks what the wrapper did not."""

    accelerator: Any
    passed_by_wrapper = False
    """The passes of this step went past the wrapper."""

    def training_step(self, model: Any, *args: Any, **options: Any) -> Any:
        loss = super().training_step(model, *args, **options)  # type: ignore[misc]
        accelerator = self.accelerator
        if self.passed_by_wrapper and accelerator.sync_gradients and accelerator.num_processes > 1:
            average_gradients(model.parameters(), accelerator.num_processes)
        return loss


def average_gradients(parameters: Iterable[torch.nn.Parameter], ranks: int) -> None:
    """The mean over ``ranks`` of each trained parameter's gradient; 0 counts where a rank has none."""
    import torch
    import torch.distributed as dist

    trained = [parameter for parameter in parameters if parameter.requires_grad]
    flat = torch.cat(
        [(p.grad if p.grad is not None else torch.zeros_like(p)).detach().float().flatten() for p in trained]
    )
    dist.all_reduce(flat)
    flat /= ranks
    for parameter, mean in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
        parameter.grad = mean.view_as(parameter).to(parameter.dtype)
