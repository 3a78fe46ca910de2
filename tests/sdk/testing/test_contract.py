"""The event loop of contract tests: one for all, closed without a word as the interpreter ends."""

from __future__ import annotations

import subprocess
import sys

THREADS = """
import asyncio
from grpo_sdk.testing.contract import run

async def loop_of_a_thread():
    await asyncio.to_thread(int)
    return asyncio.get_running_loop()

assert run(loop_of_a_thread()) is run(loop_of_a_thread())
"""


def test_all_contracts_share_one_loop_which_ends_without_a_word() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
