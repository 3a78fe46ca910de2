"""BFCL's own side of the comparison; run by the interpreter that has bfcl-eval, with a JSON request on stdin.

Its evaluation (``_evaluate_single_multi_turn_entry``) and its reading of calls (``convert_to_function_call``)
are taken out of their files, since those import every provider's client.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import bfcl_eval
from bfcl_eval.constants.executable_backend_config import CLASS_FILE_PATH_MAPPING
from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker
from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import is_empty_execute_response
from bfcl_eval.utils import load_dataset_entry, load_ground_truth_entry

ROOT = Path(bfcl_eval.__file__).parent


def function_of(file, name, **names):
    """The function ``name`` of one of BFCL's files, without running the rest of it."""
    tree = ast.parse((ROOT / file).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    ast.fix_missing_locations(tree)
    for argument in tree.body[0].args.args:
        argument.annotation = None
    exec(compile(tree, file, "exec"), names)
    return names[name]


decode = function_of("model_handler/utils.py", "convert_to_function_call", json=json)
evaluate = function_of(
    "eval_checker/eval_runner.py",
    "_evaluate_single_multi_turn_entry",
    multi_turn_checker=multi_turn_checker,
    is_empty_execute_response=is_empty_execute_response,
)
handler = SimpleNamespace(decode_execute=lambda result, has_tool_call_tag: decode(result))


def answers(category):
    """By task: the calls of each turn, as name and arguments."""
    entries = {
        entry["id"]: entry for entry in load_dataset_entry(f"multi_turn_{category}", include_prereq=False)
    }
    found = {}
    for truth in load_ground_truth_entry(f"multi_turn_{category}"):
        entry = entries[truth["id"]]
        found[truth["id"]] = {
            "prompts": [turn[0]["content"] for turn in entry["question"]],
            "turns": [
                [call(text, entry["involved_classes"]) for text in turn] for turn in truth["ground_truth"]
            ],
        }
    return found


def call(text, classes):
    node = ast.parse(text, mode="eval").body
    for name in classes:
        method = getattr(
            getattr(importlib.import_module(CLASS_FILE_PATH_MAPPING[name]), name), node.func.id, None
        )
        if method is not None:
            break
    names = list(inspect.signature(method).parameters)[1:]
    given = dict(zip(names, node.args, strict=False))
    given.update({keyword.arg: keyword.value for keyword in node.keywords})
    return [node.func.id, {key: ast.literal_eval(value) for key, value in given.items()}]


def judge(category, transcripts):
    """By task: whether BFCL's evaluation calls the conversation valid."""
    entries = {
        entry["id"]: entry for entry in load_dataset_entry(f"multi_turn_{category}", include_prereq=False)
    }
    truths = {
        truth["id"]: truth["ground_truth"] for truth in load_ground_truth_entry(f"multi_turn_{category}")
    }
    verdicts = {}
    for number, (task, messages) in enumerate(transcripts):
        turns = []
        for message in messages:
            if message["role"] == "user":
                turns.append([])
            elif message["role"] == "assistant":
                said = message.get("tool_calls") or []
                turns[-1].append([{one["function"]["name"]: one["function"]["arguments"]} for one in said])
        verdict = evaluate(
            handler,
            task,
            turns,
            truths[task],
            dict(entries[task]),
            f"judge{number}",
            f"multi_turn_{category}",
        )
        verdicts[task] = {"success": verdict["valid"]}
    return verdicts


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr
    request = json.load(sys.stdin)
    if request["do"] == "answers":
        result = answers(request["category"])
    else:
        result = judge(request["category"], request["transcripts"])
    json.dump(result, out)
