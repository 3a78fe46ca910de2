"""The prompts environment: users say the texts that they are given, or what a second model says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from grpo_environments.splits import is_held_out, require_between
from grpo_sdk.backend import Backend, Capability, Sampling
from grpo_sdk.environment import Environment, Observation, StepResult
from grpo_sdk.messages import Message, assistant, system, user
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task

INSTRUCTIONS = (
    "You play a user who asks an assistant for something. Say only what the user says next, in one or two "
    "sentences. When the user has what they wanted, say only {stop}."
)
BEGIN = "Begin. What does the user say?"


class PromptsEnvironment(Environment):
    """A user says a prompt, and after each answer the next of ``replies``; then the episode is done.

    Or a second model plays the user, until it says ``stop``, and at most ``turns`` times. What it says are
    messages, which are never trained on.

    It judges nothing: combine it with rewards that read what the agent said. ``outcome``:
    ``answered``, the number of the agent's messages, and with a second model ``ended``, whether it said stop.
    """

    def __init__(
        self,
        *,
        prompts: tuple[str, ...] = (),
        held_out: tuple[str, ...] = (),
        replies: tuple[str, ...] = (),
        user: Backend | None = None,
        instructions: str = INSTRUCTIONS,
        stop: str = "DONE",
        turns: int = 4,
        max_tokens: int = 64,
        temperature: float = 1.0,
    ) -> None:
        """Set the options.

        ``prompts``: to train on; ``held_out``: to measure with; each one is a task. ``replies``: what
        every user says after the first, second, … answer. ``user``: the model that says it instead, told by
        ``instructions``, in which {stop} stands for ``stop``; sampled with ``max_tokens`` and
        ``temperature``. Raises ``ValueError`` for an empty text, one prompt in both splits, or replies and a
        user.
        """
        require_between("turns", turns, 1, 1000)
        if user is not None and replies:
            raise ValueError("prompts: the user is a model, which says its own replies; leave replies out")
        if user is not None and not stop:
            raise ValueError("prompts: stop is empty; give the text with which the user ends")
        if not all(text.strip() for text in (*prompts, *held_out, *replies)):
            raise ValueError("prompts: a text is empty; leave it out")
        if both := set(prompts) & set(held_out):
            raise ValueError(f"prompts: {min(both)!r:.60} stands in prompts and in held_out")
        self._splits = {False: tuple(dict.fromkeys(prompts)), True: tuple(dict.fromkeys(held_out))}
        self._replies = tuple(replies)
        self._answered = 0
        self._user, self._turns, self._stop = user, turns, stop
        self._instructions = instructions.replace("{stop}", stop)
        self._sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
        self._seed = 0
        self._heard: list[Message] = []
        """The conversation as the user's model has it: the agent is its user."""
        self._ended = False

    def tasks(self, split: str) -> Sequence[Task]:
        prompts = self._splits[is_held_out(split)]
        return [Task(f"{split}-{index}", {"prompt": text}, split) for index, text in enumerate(prompts)]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self._answered, self._ended, self._seed = 0, False, seed
        # Some chat templates want a user to begin.
        self._heard = [system(self._instructions), user(BEGIN), assistant(task.data["prompt"])]
        return Observation([user(task.data["prompt"])])

    async def step(self, action: Message) -> StepResult:
        self._answered += 1
        if self._user is not None:
            return await self._asked(self._user, action["content"])
        if self._answered > len(self._replies):
            return StepResult(done=True, outcome=self.outcome())
        return StepResult([user(self._replies[self._answered - 1])])

    async def _asked(self, model: Backend, answer: str) -> StepResult:
        if self._answered > self._turns:
            return StepResult(done=True, outcome=self.outcome())
        self._heard.append(user(answer))
        sampling = self._sampling
        if Capability.SEED in model.capabilities:
            sampling = replace(sampling, seed=derive_seed("user", self._seed, self._answered))
        reply = await model.chat(self._heard, sampling)
        said, stop, _ = reply.message["content"].partition(self._stop)
        said = said.strip()
        self._ended = bool(stop) or not said
        self._heard.append(assistant(said))
        outcome = self.outcome() if self._ended else {}
        return StepResult([user(said)] if said else [], self._ended, outcome)

    def outcome(self) -> dict[str, Any]:
        ended = {} if self._user is None else {"ended": self._ended}
        return {"answered": self._answered, **ended}
