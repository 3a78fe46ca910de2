"""Example dialogues, found by words or by meaning: shown to a model, or imitated before training."""

from __future__ import annotations

from grpo_host.dialogues.database import DialogueDatabase, Mode, read_demonstrations
from grpo_host.dialogues.record import Dialogue

__all__ = ["Dialogue", "DialogueDatabase", "Mode", "read_demonstrations"]
