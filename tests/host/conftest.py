"""Small hand-written parts for tests of the runtime: a tokenizer, a backend of token ids,
environments, and distributions of plugins made up in a temporary directory."""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from grpo_sdk import (
    Backend,
    Capability,
    Environment,
    Message,
    ModelSpec,
    Observation,
    Sampling,
    StepResult,
    Task,
    TokenReply,
    user,
)
from grpo_sdk.backend import TRAINABLE

START, END = "<|im_start|>", "<|im_end|>"


def chatml(messages: Sequence[dict[str, str]]) -> str:
    """The chat template that SmolLM2, Qwen and many others share."""
    return "".join(f"{START}{item['role']}\n{item['content']}{END}\n" for item in messages)


class PieceTokenizer:
    """Letters, and pieces of letters: like a real tokenizer, one text has many spellings in ids.

    ``encode`` takes the longest piece; a policy may sample others, which re-tokenizing would change.
    """

    chat_template = "chatml"
    eos_token_id = 1
    SPECIAL: ClassVar[list[str]] = [START, END]
    PIECES: ClassVar[list[str]] = ["the ", "he", "ll", "llo", "order", " is", "tool", '"name"', "</", "call>"]
    LETTERS = 100

    def __init__(self, template: Callable[[Sequence[dict[str, str]]], str] = chatml) -> None:
        self.template = template
        self._texts = self.SPECIAL + self.PIECES
        self.split_special_tokens = False
        self._pattern, self._pattern_of_text = (
            re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) + "|.", re.DOTALL)
            for texts in (self._texts, self.PIECES)
        )

    @property
    def all_special_tokens(self) -> list[str]:
        return self.SPECIAL

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        found = (self._pattern_of_text if self.split_special_tokens else self._pattern).findall(text)
        return [self._texts.index(t) if t in self._texts else self.LETTERS + ord(t) for t in found]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        texts = [self._texts[i] if i < len(self._texts) else chr(i - self.LETTERS) for i in token_ids]
        return "".join(t for t in texts if not (skip_special_tokens and t in self.SPECIAL))

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> str:
        opening = f"{START}assistant\n" if kwargs.get("add_generation_prompt") else ""
        return self.template(conversation) + opening


Reply = str | list[int] | Exception


@dataclass(frozen=True)
class Call:
    """What the backend was given and what it sampled."""

    prompt: list[int]
    sampling: Sampling
    reply: TokenReply


class TokenBackend(Backend):
    """Samples ``replies`` in their order (a text ends with the end token), the last again and again."""

    capabilities = TRAINABLE | {Capability.LOCAL_WEIGHTS, Capability.RANKS}

    def __init__(self, tokenizer: Any, *replies: Reply, context: int = 100_000) -> None:
        super().__init__(ModelSpec("fake", context=context))
        self._tokenizer = tokenizer
        self._replies = replies
        self.calls: list[Call] = []

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        await asyncio.sleep(0)
        said = self._replies[min(len(self.calls), len(self._replies) - 1)]
        if isinstance(said, Exception):
            raise said
        if isinstance(said, str):
            said = [*self._tokenizer.encode(said, add_special_tokens=False), self._tokenizer.eos_token_id]
        ids = list(said)[: sampling.max_tokens]
        finish = "stop" if ids and ids[-1] in sampling.stop_token_ids else "length"
        logprobs = [-0.125 * (index + 1) - len(self.calls) for index in range(len(ids))]
        reply = TokenReply(ids, logprobs, finish)
        self.calls.append(Call(list(prompt), sampling, reply))
        return reply


class Talk(Environment):
    """Says ``lines`` one after another; the episode is done when the agent has answered the last.

    ``events`` of the class of one test's environments tells what was called.
    """

    def __init__(self, *lines: str, events: list[str] | None = None) -> None:
        self.lines = lines or ("Hello",)
        self.heard: list[Message] = []
        self.events = events if events is not None else []

    def tasks(self, split: str) -> list[Task]:
        return [Task(f"{split}-{index}", split=split) for index in range(4)]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.events.append(f"reset {task.id}")
        return Observation([user(self.lines[0])])

    async def step(self, action: Message) -> StepResult:
        self.heard.append(action)
        if len(self.heard) == len(self.lines):
            return StepResult(done=True, outcome={"success": True})
        return StepResult([user(self.lines[len(self.heard)])])

    def outcome(self) -> dict[str, Any]:
        return {"heard": len(self.heard)}

    async def close(self) -> None:
        self.events.append("close")


@pytest.fixture(scope="session")
def fakes() -> SimpleNamespace:
    """The parts of this file."""
    return SimpleNamespace(
        PieceTokenizer=PieceTokenizer,
        TokenBackend=TokenBackend,
        Talk=Talk,
        chatml=chatml,
        START=START,
        END=END,
    )


@pytest.fixture(scope="session")
def smollm_tokenizer(model_path: Path) -> Any:
    """The embedded model's own tokenizer and chat template."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing transformers imports what is deprecated elsewhere
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(model_path)


class PluginIndex:
    """Makes installed distributions, which are the only ones that ``load_plugins`` sees."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers = itertools.count()

    def install(self, distribution: str, version: str = "1.0", **modules: str) -> None:
        """A distribution with an entry point for each of ``modules``: name → source."""
        number = next(self._numbers)
        targets = {name: f"made_up_{number}_{name}" for name in modules}
        for name, source in modules.items():
            (self.path / f"{targets[name]}.py").write_text(dedent(source))
        self.describe(distribution, version, **targets)

    def describe(self, distribution: str, version: str = "1.0", **targets: str) -> None:
        """A distribution with an entry point for each of ``targets``: name → what it leads to."""
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        header = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(header)
        lines = ["[grpo]", *(f"{name} = {target}" for name, target in targets.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")

    def entry_points(self, *, group: str) -> list[EntryPoint]:
        found = distributions(path=[str(self.path)])
        return [e for d in found for e in d.entry_points if e.group == group]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginIndex]:
    path = tmp_path / "site-packages"
    path.mkdir()
    made = PluginIndex(path)
    monkeypatch.setattr("grpo_host.plugins.loading.entry_points", made.entry_points)
    monkeypatch.syspath_prepend(str(path))
    yield made
    for name in [name for name in sys.modules if name.startswith("made_up_")]:
        del sys.modules[name]
