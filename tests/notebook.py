"""Runs cells of Python in one namespace and one event loop, as a notebook does, in a process of its own.

python notebook.py CELLS RESULTS

CELLS: a JSON list of cells, each a list of parts ``{"source", "name", "line"}`` and ``"so"``, an expression
over the cells' names and ``output``, what the cell has printed. RESULTS: a line of JSON a cell, null where
all went well, else what went wrong. The process ends as the cells leave it: nothing is closed for them.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import sys
import traceback
from pathlib import Path
from typing import Any


async def _awaited(coroutine: Any) -> None:
    await coroutine


def execute(part: dict[str, Any], namespace: dict[str, Any], runner: asyncio.Runner) -> None:
    # Blank lines above, so that a traceback tells the line in the document.
    source = "\n" * (part["line"] - 1) + part["source"]
    code = compile(source, part["name"], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, namespace)
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(_awaited(result))


def run(cell: dict[str, Any], namespace: dict[str, Any], runner: asyncio.Runner) -> str | None:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            for part in cell["parts"]:
                execute(part, namespace, runner)
        if not eval(cell["so"], namespace, {"output": printed.getvalue()}):
            return f"not so: {cell['so']}\nprinted: {printed.getvalue()}"
    except Exception:
        return traceback.format_exc()
    return None


def main(cells: Path, results: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with asyncio.Runner() as runner, results.open("w") as told:
        for cell in json.loads(cells.read_text()):
            print(json.dumps(run(cell, namespace, runner)), file=told, flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
