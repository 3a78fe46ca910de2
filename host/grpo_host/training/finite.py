"""Only finite numbers become weights, and only finite weights a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from grpo_host.training.trl.steps import step_under_way
from grpo_sdk.errors import RunError

if TYPE_CHECKING:
    import torch

MOST_SKIPPED = 3
"""Updates in a row whose gradient is not finite, until a run is given up."""
MEND = (
    "Lower the learning rate and go on from the weights that were saved last (--resume); if that does "
    "not help, begin anew with model.dtype: float32"
)


def first_nonfinite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first of ``tensors`` that holds NaN or an infinity.

    If they are spread over ranks, all ranks call it with the same, and hear the same.
    """
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor

    for name, tensor in tensors:
        shard = isinstance(tensor, DTensor)
        finite = (tensor.to_local() if shard else tensor).isfinite().all()
        if shard:  # torch gives each rank what is true of its own part
            finite = finite.int()
            dist.all_reduce(finite, dist.ReduceOp.MIN)
        if not finite:
            return name
    return None


def nonfinite_weights(directory: Path) -> str | None:
    """The first saved weights in ``directory`` that are not finite or cannot be read; None: all is well.

    An optimizer's state is not looked at: what is not finite in it has made the weights so too.
    """
    from safetensors import SafetensorError, safe_open

    for path in sorted(directory.rglob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                name = first_nonfinite((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118
        except SafetensorError as problem:
            return f"{path.name} ({problem})"
        if name:
            return f"{name} of {path.name}"
    return None


class FiniteUpdates(TrainerCallback):  # type: ignore[misc]
    """Of a transformers ``Trainer``: leaves out updates that would do harm, or for which there is no reason.

    Such a step changes neither weights nor the optimizer's state; its schedule and its number go on.
    Several ranks decide alike: they hold the same gradients, which have been averaged over them, or parts of
    the same.
    """

    def __init__(self) -> None:
        self.nothing_to_learn = False
        """Set before the next update: there is no reason for it, yet momentum would move the weights."""
        self.nonfinite = False
        """The last step's gradient was not finite."""
        self.in_a_row = 0
        """Updates with such a gradient since the last good one."""
        self._lost = 0
        """Of the step under way."""

    @property
    def skipped(self) -> bool:
        """The last step made no update."""
        return self.nonfinite or self.nothing_to_learn

    def metrics(self) -> dict[str, float]:
        """The last step's, for its line of metrics.jsonl."""
        lost, self._lost = self._lost, 0
        return {
            "update/skipped_nonfinite": float(lost),
            "update/skipped_nothing_to_learn": float(self.nothing_to_learn),
        }

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        """Raises ``RunError`` if the weights are not finite, or too many gradients in a row were not."""
        given = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
        found = first_nonfinite(given)
        self.nonfinite = found is not None
        if self.nonfinite:
            _require_finite_weights(model, f"before step {step_under_way(args, state)}")
            self.in_a_row += 1
            self._lost += 1
        elif not self.nothing_to_learn:
            self.in_a_row = 0
        if self.in_a_row >= MOST_SKIPPED:
            raise RunError(
                f"the gradients of {MOST_SKIPPED} updates in a row are not finite (now in {found}): nothing "
                f"was learnt from them. {MEND}. What was sampled is in trajectories.jsonl"
            )
        if self.skipped:
            model.zero_grad(set_to_none=True)  # an optimizer leaves alone what has no gradient

    def on_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        """Raises ``RunError`` if the update was too large for the weights' type."""
        if not self.skipped:
            _require_finite_weights(model, f"after step {step_under_way(args, state)}")


def _require_finite_weights(model: Any, when: str) -> None:
    found = first_nonfinite((name, p.detach()) for name, p in model.named_parameters() if p.requires_grad)
    if found:
        raise RunError(f"{when} the weights are not finite (in {found}). {MEND}")


class TrueLosses:
    """Of a transformers ``Trainer``: logs a loss that is not finite as what it is.

    With ``logging_nan_inf_filter=False`` alone, all losses after it would be NaN too: the Trainer
    subtracts what it has logged from its sum.
    """

    _tr_loss: torch.Tensor

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and not self._tr_loss.isfinite():
            self._tr_loss.zero_()
        super().log(logs, start_time)  # type: ignore[misc]
