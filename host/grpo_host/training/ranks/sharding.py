"""A model spread over the ranks: FSDP2, as an accelerate configuration asks for it.

accelerate tells its children by environment variables how to shard, and torch shards when a trainer
prepares the model. This module reads what is asked for, and makes whole weights of shards: for a file,
and back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from grpo_host.config.sharing import asked_by, is_on, refusals
from grpo_sdk.errors import ConfigError

FSDP = "ACCELERATE_USE_FSDP"
OTHERS = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
"""What else accelerate can be asked for."""
SETTINGS = {
    # One file of weights, whatever the number of ranks: a run goes on, and is served, on others.
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    # Each rank reads the model from its disk: of an adapter that is new, rank 0's would be the only one.
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    # agent.yaml says in which precision is trained: model.dtype, training.mixed_precision.
    "ACCELERATE_MIXED_PRECISION": "no",
}
"""What is ours to say, whatever the configuration says."""


def is_sharding_asked() -> bool:
    """Whether an accelerate configuration asks to shard the model.

    Raises ``ConfigError`` if it asks for a way that is not built.
    """
    for name, what in OTHERS.items():
        if is_on(os.environ.get(name, "")):
            raise ConfigError(
                f"the environment variable {name} is set, as accelerate launch does for {what}, with which "
                "nothing is trained here. Take a configuration with distributed_type: FSDP and "
                "fsdp_version: 2, or unset it"
            )
    if not is_on(os.environ.get(FSDP, "")):
        return False
    for why in refusals(os.environ):
        raise ConfigError(why)
    return True


def read_configuration(path: Path) -> None:
    """Ask for what the accelerate configuration at ``path`` says, as ``accelerate launch`` would.

    Raises ``ConfigError`` if it cannot be read, or shards nothing.
    """
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    try:
        asked_by(path)
    except ConfigError as problem:
        raise ConfigError(f"training.accelerate: {problem}") from None
    try:
        # How many there are is ours to say, and is the same to what is read here.
        asked = launch_command_parser().parse_args(["--config_file", str(path), "--num_processes", "2", "-"])
        variables = prepare_multi_gpu_env(_validate_launch_command(asked)[0])
    except Exception as problem:  # of yaml, of types and of values
        raise ConfigError(f"training.accelerate: {path} cannot be used: {problem}") from problem
    wanted = {name: value for name, value in variables.items() if name.startswith("FSDP_")}
    os.environ.update(wanted, **{FSDP: "true"})


def prepare_sharding() -> None:
    """Settle what is ours to say, before a trainer is made."""
    import torch

    os.environ.update(SETTINGS)
    if not torch.cuda.is_available():
        os.environ["FSDP_OFFLOAD_PARAMS"] = "false"  # all of it is in the machine's memory
    os.environ.setdefault("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")


def check_layers(model: Any) -> None:
    """Check that ``model`` has the layers that the accelerate configuration names. Raises ``ConfigError``."""
    named = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    there = {type(module).__name__ for module in model.modules()}
    for name in filter(None, map(str.strip, named.split(","))):
        if name not in there:
            own = ", ".join(sorted(getattr(model, "_no_split_modules", None) or ())) or "unknown"
            raise ConfigError(
                f"the accelerate configuration says fsdp_transformer_layer_cls_to_wrap: {name}, and the "
                f"model has no such layer. Leave it out: the model names its own ({own})"
            )


class ShardedAlike:
    """Of a transformers ``Trainer``: the model is shared, and all else is as it would be without.

    It is so on CPU too, where accelerate leaves it out and torch can: a configuration can be tried on any
    machine.
    """

    accelerator: Any

    def create_accelerator_and_postprocess(self) -> None:
        from accelerate.state import PartialState
        from accelerate.utils import DistributedType

        state = PartialState()
        if is_sharding_asked() and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = state._shared_state["distributed_type"] = DistributedType.MULTI_XPU
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        plugin = self.accelerator.state.fsdp_plugin if is_sharding_asked() else None
        if plugin is not None:
            # With bf16 accelerate would round what layers hand on, the logits and the gradients to
            # bfloat16: autocast keeps them in float32, and is on either way.
            plugin.mixed_precision_policy = None


def is_sharded(model: Any) -> bool:
    """Whether a trainer has spread the weights of ``model`` over the ranks."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole_state(model: Any, *, trained: bool) -> dict[str, Any]:
    """On rank 0 the whole weights of ``model``, on its CPU, and on others none; all ranks call it.

    ``trained``: those alone that are trained.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained)
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            weights.pop(name, None)  # tied: it is written once
    return weights


@contextmanager
def taking_whole_weights(model: Any) -> Iterator[None]:
    """Within it each rank copies its part of the whole weights that are copied to ``model``."""
    from torch.distributed.tensor.experimental import implicit_replication

    with implicit_replication() if is_sharded(model) else nullcontext():
        yield
