"""A supervised warm start: imitate demonstration dialogues before GRPO, with TRL's ``SFTTrainer``.

A model that never does the right thing gives GRPO nothing to reinforce.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_host.config.schema import WarmStartConfig
from grpo_host.dialogues import read_demonstrations
from grpo_host.rollouts.episode import EpisodeAgent
from grpo_host.rollouts.mixture import Mixture
from grpo_host.training.devices import largest_share, precision_arguments
from grpo_host.training.lora import precision_kept
from grpo_host.training.policy import Policy
from grpo_sdk.environment import Environment
from grpo_sdk.errors import ConfigError
from grpo_sdk.messages import Message
from grpo_sdk.tools import ToolLike
from grpo_sdk.trajectory import TokenSequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A conversation to imitate."""

    messages: list[Message]
    id: str | None = None
    """Of the dialogue or trajectory that it is; None: it is the environment's."""
    trace: str | None = None
    """Of that trajectory."""


def demonstrations(environment: Environment, settings: WarmStartConfig, *, seed: int) -> list[Demonstration]:
    """What to imitate, shuffled, at most ``settings.max_demonstrations``.

    The dialogues of ``settings``, or the demonstrations of the environment's training split. Raises
    ``ConfigError`` if there are none.
    """
    if settings.dialogues is not None:
        found = _read(settings.dialogues, settings.min_reward)
    else:
        found = [Demonstration(messages) for messages in environment.demonstrations("train")]
    if not found:
        raise ConfigError(
            f"training.warm_start: the environment {type(environment).__name__} has no "
            "demonstrations; remove warm_start, give it dialogues or implement Environment.demonstrations"
        )
    random.Random(seed).shuffle(found)
    return found[: settings.max_demonstrations]


def _read(path: str, min_reward: float | None) -> list[Demonstration]:
    """The dialogues in ``path``; of episodes those that ended well. Raises ``ConfigError``."""
    dialogues = read_demonstrations(path)
    good = [item for item in dialogues if _is_good(item.metadata, min_reward)]
    which = "that failed" if min_reward is None else f"that failed or have no reward of at least {min_reward}"
    if not good:
        raise ConfigError(
            f"training.warm_start: {path} has only episodes {which}. Score them with grpo-host score --out, "
            "lower min_reward, or give others"
        )
    if len(good) < len(dialogues):
        left = len(dialogues) - len(good)
        logger.info("%d of %d episodes in %s are not imitated: those %s", left, len(dialogues), path, which)
    return [Demonstration(item.conversation, item.id, item.metadata.get("trace")) for item in good]


def _is_good(metadata: Mapping[str, Any], min_reward: float | None) -> bool:
    """Whether a dialogue is to be imitated: one that was written to be imitated is no episode, and is."""
    if not {"status", "stop_reason", "reward"} <= metadata.keys():
        return True
    reward = metadata["reward"]
    failed = metadata["status"] == "failed"
    return not failed and (min_reward is None or (reward is not None and reward >= min_reward))


def demonstrating(environment: Environment, settings: WarmStartConfig) -> list[Environment]:
    """Whose demonstrations are imitated: ``environment``, or those of a mixture that have any.

    ``settings.max_demonstrations`` is then of each of them.
    """
    if isinstance(environment, Mixture) and settings.dialogues is None:
        found = [member for _, member in environment.members if member.demonstrations("train")]
        return found or [environment]
    return [environment]


async def tokenize(
    agent: EpisodeAgent, dialogues: Sequence[Sequence[Message]], tools: Sequence[ToolLike]
) -> list[TokenSequence]:
    """``dialogues`` as the ledgers that episodes of ``agent`` would have had.

    The ids come from the same rendering as in rollouts, so that what is imitated is what will be
    sampled. Longer ones than the context are left out, which is logged. Raises ``ConfigError`` if
    none is left.
    """
    played = [item for dialogue in dialogues for item in await agent.replay(dialogue, tools)]
    sequences = [item for item in played if item.weight]
    context = agent.backend.model.context
    fitting = [item for item in sequences if len(item.ids) <= context]
    if not fitting:
        raise ConfigError(
            f"training.warm_start: none of {len(sequences)} demonstrations fits into the context of "
            f"{context} tokens; raise model.context or give shorter ones"
        )
    if len(fitting) < len(sequences):
        logger.warning(
            "%d of %d demonstrations are longer than the context of %d tokens and left out",
            len(sequences) - len(fitting),
            len(sequences),
            context,
        )
    return fitting


def warm_start(
    policy: Policy,
    sequences: Sequence[TokenSequence],
    settings: WarmStartConfig,
    *,
    directory: Path,
    seed: int,
    micro_batch: int,
    on_step: Callable[[int, int, float], None],
    check: Callable[[], None],
    ranks: int = 1,
    gradient_checkpointing: bool = False,
) -> dict[str, float]:
    """Train the policy's adapter on ``sequences``; the loss is on the policy's own tokens alone.

    ``on_step(step, of, loss)`` is called after each optimizer step, ``check`` may raise to stop.
    Returns the last loss and the number of steps. Raises ``RunError`` if gradients stay not finite.
    """
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig

    from grpo_host.training.finite import FiniteUpdates
    from grpo_host.training.trl.sft import FastSFTTrainer

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))
                on_step(state.global_step, state.max_steps, losses[-1])

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            check()

        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            check()

    losses: list[float] = []
    own = max(1, settings.batch // ranks)
    per_pass = largest_share(own, micro_batch)
    with precision_kept(policy.model):
        trainer = FastSFTTrainer(
            model=policy.model,
            args=SFTConfig(
                output_dir=str(directory),
                num_train_epochs=settings.epochs,
                learning_rate=settings.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=2,
                per_device_train_batch_size=per_pass,
                gradient_accumulation_steps=max(1, own // per_pass),
                max_length=None,
                seed=seed,
                logging_steps=1,
                logging_nan_inf_filter=False,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                gradient_checkpointing=gradient_checkpointing,
                **precision_arguments(autocast=policy.autocast),
            ),
            train_dataset=Dataset.from_list([_example(item) for item in sequences]),
            processing_class=policy.tokenizer,
            callbacks=[FiniteUpdates(), Watch()],
        )
    _silence_printing(trainer)
    trainer.train()
    return {"loss": losses[-1] if losses else float("nan"), "steps": float(trainer.state.global_step)}


def _silence_printing(trainer: Any) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _example(sequence: TokenSequence) -> dict[str, list[int]]:
    labels = [token if sampled else -100 for token, sampled in zip(sequence.ids, sequence.mask, strict=True)]
    return {"input_ids": sequence.ids, "labels": labels}
