"""Ask a contract something in another process, in which sets and ``hash`` have another order."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_sdk.testing.checks import require, skip

SECONDS = 120.0


def ask_in_another_process(contract: object, method: str) -> Any:
    """What ``contract``'s class gives for ``method``, as JSON; skips the test if it cannot be made there.

    There, an instance is made without pytest, so a ``make`` that needs a fixture cannot be asked.
    """
    cls = type(contract)
    if "<locals>" in cls.__qualname__:
        skip(f"{cls.__name__} stands within a function, so another process cannot make it")
    try:
        file = inspect.getfile(cls)
    except (TypeError, OSError):
        skip(f"{cls.__name__} stands in no file, so another process cannot make it")
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory, "answer.json")
        asked = {
            "file": file,
            "module": cls.__module__,
            "name": cls.__qualname__,
            "method": method,
            "answer": str(answer),
            "path": sys.path,
        }
        seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
        command = "import sys; from grpo_sdk.testing.other_process import answer; answer(sys.argv[1])"
        done = subprocess.run(  # noqa: S603 - this Python
            [sys.executable, "-c", command, json.dumps(asked)],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        require(answer.is_file(), f"in another process it ended at once: {done.stderr[-500:]}")
        said: Mapping[str, Any] = json.loads(answer.read_text("utf-8"))
    if "cannot" in said:
        skip(f"{cls.__name__} cannot be made in another process, without fixtures: {said['cannot']}")
    require("raised" not in said, f"in another process it raised {said.get('raised')}")
    return said["gave"]


def answer(text: str) -> None:
    """In the other process: write what was asked for."""
    asked = json.loads(text)
    said: dict[str, Any]
    try:
        contract = _made(asked)
        contract.make()
    except Exception as problem:
        said = {"cannot": f"{type(problem).__name__}: {problem}"}
    else:
        try:
            said = {"gave": getattr(contract, asked["method"])()}
        except Exception as problem:
            said = {"raised": f"{type(problem).__name__}: {problem}"}
    Path(asked["answer"]).write_text(json.dumps(said), encoding="utf-8")


def _made(asked: Mapping[str, Any]) -> Any:
    spec = importlib.util.spec_from_file_location(asked["module"], asked["file"])
    if spec is None or spec.loader is None:
        raise ImportError(f"{asked['file']} cannot be imported")
    found: Any = importlib.util.module_from_spec(spec)
    sys.modules[asked["module"]] = found
    spec.loader.exec_module(found)
    for name in asked["name"].split("."):
        found = getattr(found, name)
    return found()
