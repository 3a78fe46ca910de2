"""The usage guide is true: every Python block of docs/GUIDE.md runs as it is written.

The blocks run in the guide's order in one namespace and one process (``notebook.py``), as a reader
would type them into one notebook, so that a block finds what earlier ones made. A block with a top-level
``await`` runs as it would there. What the guide leaves to its reader is filled in by ``BLOCKS`` below,
and nothing else is:

- ``gpt2`` stands for the embedded model, and the embedded model's name, which is the default, for one of two
  layers, by the documented ``GRPO_MODEL_ALIASES``: a default answers 300 tokens in half a minute;
- a judge for RULER is named by ``GRPO_JUDGE_MODEL`` and ``GRPO_JUDGE_BACKEND``;
- ``given`` runs before a block: names that the guide uses and does not define, and a scripted model where
  an untrained one would not call a tool;
- ``then`` runs after it: calls of functions that the guide only defines.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import os
import pydoc
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "GUIDE.md"
NAMES = ROOT / "docs" / "guide-names.md"
ORIGINAL = "768cd85fb1cb6454b8a6ca4b89ff64bc64b8b61a665703d5a4c60cc0a7f43ba4"
"""SHA-256 of the guide as its author wrote it."""


@dataclass(frozen=True)
class Block:
    """A fenced block: under which heading, where it begins, and what it says."""

    heading: str
    line: int
    language: str
    code: str


def blocks() -> list[Block]:
    text = GUIDE.read_text(encoding="utf-8")
    found = []
    for fence in re.finditer(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        before = text[: fence.start()]
        # A comment of a shell or Python block looks like a heading.
        headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", before, flags=re.M | re.S), re.M)
        found.append(Block(headings[-1], before.count("\n") + 2, *fence.groups()))
    return found


PYTHON = [block for block in blocks() if block.language == "python"]


def tree_of(block: Block) -> ast.AST:
    return compile(block.code, "", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_guide_is_the_authors_below_the_first_line() -> None:
    _, _, original = GUIDE.read_bytes().partition(b"\n")

    assert hashlib.sha256(original).hexdigest() == ORIGINAL


def imports() -> list[tuple[str, str]]:
    """(module, name) of every import of ours in the guide, and the modules that it runs with ``-m``."""
    text = GUIDE.read_text(encoding="utf-8")
    modules = re.findall(r"-m\"?,? \"?(grpo_agent_framework[\w.]+)", text)
    found = [(module, "") for module in modules]
    for block in PYTHON:
        for node in ast.walk(tree_of(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("grpo_agent_framework"):
                found += [(node.module or "", alias.name) for alias in node.names]
    return sorted(set(found))


@pytest.mark.parametrize(("module", "name"), imports(), ids=lambda part: part.rpartition(".")[2] or "module")
def test_every_import_path_of_the_guide_exists(module: str, name: str) -> None:
    found = importlib.import_module(module)
    assert not name or hasattr(found, name)


def names_of_ours() -> set[str]:
    """What the guide imports from us, and the methods, options and keys that it uses of it."""
    found = {name for _, name in imports() if name}
    for block in PYTHON:
        for node in ast.walk(tree_of(block)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in found:
                found |= {keyword.arg for keyword in node.keywords if keyword.arg}
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.ClassDef):
                found |= {item.name for item in node.body if isinstance(item, ast.AsyncFunctionDef)}
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                found.add(node.slice.value)
            elif isinstance(node, ast.keyword) and node.arg == "model_config":
                found |= {key.value for key in getattr(node.value, "keys", [])}
    return found - OTHERS


OTHERS = {"run", "append", "basicConfig", "DEBUG", "virtual_memory", "percent"}
"""Attributes in the guide that are Python's, psutil's or uvicorn's."""


@pytest.mark.parametrize("name", sorted(names_of_ours()))
def test_the_migration_note_says_where_a_name_lives(name: str) -> None:
    assert re.search(rf"`[\w.]*\b{name}\b[^`]*`", NAMES.read_text(encoding="utf-8")), name


def paths_of_the_note() -> list[str]:
    """The modules, classes and methods that the note says a name leads to."""
    return sorted(set(re.findall(r"`(grpo_\w+(?:\.\w+)+)`", NAMES.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", paths_of_the_note())
def test_what_the_migration_note_points_at_exists(path: str) -> None:
    assert pydoc.locate(path, forceload=False) is not None


@dataclass(frozen=True)
class Filled:
    """What the guide leaves to its reader around one block, and what must be true afterwards."""

    given: str = ""
    then: str = ""
    so: str = "True"
    """An expression over the block's names and ``output``, what it printed."""


MODEL_CONFIG = """
import os

TINY_MODEL = os.environ["TINY_MODEL"]
model_config = {"model_type": TINY_MODEL, "temperature": 0.7, "max_tokens": 8, "seed": 1}
"""

BLOCKS = {
    "Basic Example": Filled(so="output.startswith('Agent: ') and len(output) > 10"),
    "1. Multi-Turn Agents": Filled(so="dialogue_db.search('help with my order', 1)[0].id == 'cs_001'"),
    "2. Computational Engine": Filled(
        given="""
def my_reward_function(turns, context):
    return min(len(turns[-1]["content"]) / 100, 1.0)
""",
        so="results['average_reward'] > 0",
    ),
    "Multi-Objective Rewards": Filled(so="reward_func.weight == 0.4 and len(multi_reward.components) == 3"),
    "Neural Reward Models": Filled(so="neural_reward.weight == 0.3"),
    "4. Tool Integration": Filled(
        given="""
from grpo_sdk import assistant, tool_call
from grpo_sdk.testing import ScriptedBackend

def calls_a_tool(messages, tools):
    if messages[-1]["role"] == "tool":
        return messages[-1]["content"]
    return assistant("", [tool_call("search_knowledge_base", '{"query": "technical issues"}', "call_0")])

agent = MultiTurnAgent(model_config={"backend": ScriptedBackend(script=calls_a_tool)})
context = await agent.start_conversation()
conversation_id = context.conversation_id
""",
        so="response == 'Found relevant information about: technical issues'",
    ),
    "1. Customer Service Agent": Filled(then="service_agent = await create_customer_service_agent()"),
    "2. Technical Support Agent": Filled(so="isinstance(response, str) and response"),
    "1. Distributed Training": Filled(
        # A thousand episodes in four processes: for a model of two layers, on answers of two bytes, of which
        # there are few enough that the sentence model reads most of them once.
        given=f"""{MODEL_CONFIG}
agent = MultiTurnAgent(model_config={{"model_type": TINY_MODEL, "temperature": 1.0, "max_tokens": 2}})
environment = MyEnvironment()
""",
        so="trained_agent is agent and trainer.report['steps'] == 8 and 'after' in trainer.report",
    ),
    "2. Real-Time Monitoring": Filled(
        so="metrics['metrics']['quality_score']['last'] == 0.87 and metrics['events'] == {'user_interaction': 1}"
    ),
    "3. Caching and Performance": Filled(
        given=MODEL_CONFIG,
        then="""
for _ in range(2):
    asked = await agent.start_conversation()
    response = await agent.generate_multiturn_response(asked.conversation_id, "Where is my order?")
""",
        so="cache.statistics().hits == 1",
    ),
    "1. Computational Training": Filled(
        # Ten iterations of the embedded model, which can learn to please this reward in four tokens.
        given='model_config = {"model_type": "gpt2", "temperature": 0.7, "max_tokens": 4}',
        then="""
results = await run_computational_training()
rewards = [result["average_reward"] for result in results]
""",
        so="len(rewards) == 10 and sum(rewards[-3:]) > sum(rewards[:3])",
    ),
    "2. Mixed Training Approach": Filled(
        given="from grpo_agent_framework import create_customer_service_ruler",
        then="reward_functions = await create_mixed_reward_system()",
        so="[r.weight for r in reward_functions] == [0.4, 0.3, 0.3]",
    ),
    "Low Training Performance": Filled(so="'Workers active: 4' in output"),
    "Memory Issues": Filled(given=MODEL_CONFIG),
    "Conversation Context Lost": Filled(
        given="conversation_id = (await agent.start_conversation()).conversation_id",
        so="'Active conversations: 1' in output and 'Conversation summary: ' in output",
    ),
    "Training Instability": Filled(so="training_config.gradient_clipping == 0.5"),
    "Scaling Computation": Filled(so="current_tps > 0"),
    "Memory Usage": Filled(),
    "Debug Mode": Filled(given=MODEL_CONFIG),
}
"""Heading of a block → what is filled in. A block without an entry is in ``SKIPPED``."""

SKIPPED = {
    "1. API Service": "it serves until it is stopped; tests/test_guide_service.py runs it in a process of its own"
}
"""Heading of a block → why it is not run here."""


def test_every_block_is_run_or_skipped_with_a_reason() -> None:
    assert [block.heading for block in PYTHON if block.heading not in {*BLOCKS, *SKIPPED}] == []


def cell(block: Block) -> dict[str, Any]:
    """What ``notebook.py`` runs of ``block``: nothing of one that is skipped."""
    if block.heading in SKIPPED:
        return {"parts": [], "so": "True"}
    filled = BLOCKS[block.heading]
    parts = [
        {"source": filled.given, "name": f"{block.heading}, given", "line": 1},
        {"source": block.code, "name": str(GUIDE), "line": block.line},
        {"source": filled.then, "name": f"{block.heading}, then", "line": 1},
    ]
    return {"parts": parts, "so": filled.so}


@pytest.fixture(scope="module")
def byte_model_path(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a vocabulary of bytes: of a thousand episodes, its head would take most of the time."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("byte-model")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_alone = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(letters)}, merges=[]))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = decoders.ByteLevel()
    known = AutoTokenizer.from_pretrained(tiny_model_path)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_alone,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=known.chat_template,
    )
    tokenizer.save_pretrained(path)
    config = AutoConfig.from_pretrained(tiny_model_path)
    end = tokenizer.eos_token_id
    config.update(
        {"vocab_size": len(tokenizer), "eos_token_id": end, "bos_token_id": end, "pad_token_id": end}
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


@dataclass(frozen=True)
class Notebook:
    """A process that has run the whole guide: what went wrong in each block, and how it ended."""

    problems: list[str | None]
    status: int
    said: str


@pytest.fixture(scope="module")
def notebook(
    model_path: Path, tiny_model_path: Path, byte_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Notebook:
    directory = tmp_path_factory.mktemp("guide")  # runs are written below the working directory
    cells, results = directory / "cells.json", directory / "results.jsonl"
    cells.write_text(json.dumps([cell(block) for block in PYTHON]))
    results.touch()
    given = {
        "GRPO_MODEL_ALIASES": f"gpt2={model_path},smollm2-135m={tiny_model_path}",
        "GRPO_JUDGE_MODEL": "smollm2-135m",
        "GRPO_JUDGE_BACKEND": "transformers",
        "TINY_MODEL": str(byte_model_path),
    }
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "notebook.py"), str(cells), str(results)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=directory, env={**os.environ, **given},
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=1500)
    finally:
        process.kill()
    problems = [json.loads(line) for line in results.read_text().splitlines()]
    return Notebook(problems, process.returncode, said)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("index", range(len(PYTHON)), ids=[re.sub(r"\W+", "-", b.heading) for b in PYTHON])
def test_the_block_runs_as_it_is_written(notebook: Notebook, index: int) -> None:
    if reason := SKIPPED.get(PYTHON[index].heading):
        pytest.skip(reason)
    assert index < len(notebook.problems), notebook.said[-4000:]
    problem = notebook.problems[index]
    assert problem is None, problem


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_the_process_that_ran_the_guide_ends_with_0(notebook: Notebook) -> None:
    """It closes nothing, as the guide does not."""
    assert notebook.status == 0, notebook.said[-4000:]
    assert "Traceback" not in notebook.said
