"""The server of the loops: an agent that wants the weather of two towns, one after the other.

    python bench/client_loops/server.py PORT DIRECTORY

Its answer holds what the caller's tool has said of both, so it shows that all turns went through.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from grpo_host.config.load import load_config
from grpo_host.plugins import load_plugins
from grpo_host.serving.app import create_app
from grpo_host.serving.server import serve
from grpo_host.serving.settings import ServerSettings
from grpo_sdk import Message, ModelSpec, ToolSchema, assistant, hookimpl, tool_call
from grpo_sdk.testing import ScriptedBackend

TOWNS = ("Bonn", "Kiel")
AGENT = """
name: desk
model: {name: tiny}
backend: traveller
environment: support_desk
rewards: [length]
"""


def travel(messages: Sequence[Message], tools: Sequence[ToolSchema]) -> Message | str:
    """Ask for the weather of a town that has not been told; the caller's tool says its name backwards."""
    heard = " ".join(message["content"] for message in messages)
    missing = [town for town in TOWNS if town[::-1] not in heard]
    names = [tool["function"]["name"] for tool in tools]
    report = "Reports: " + ", ".join(town[::-1] for town in TOWNS if town not in missing)
    if missing and names:
        name = next(name for name in names if name.lower() == "weather")
        return assistant("", [tool_call(name, json.dumps({"town": missing[0]}), "")])
    if "final_answer" in names:  # smolagents ends by calling it
        return assistant("", [tool_call("final_answer", json.dumps({"answer": report}), "")])
    return report


class Traveller(ScriptedBackend):
    """The model of it."""

    def __init__(self, model: ModelSpec) -> None:
        super().__init__(model, script=travel)


class Backends:
    """The plugin of it."""

    @hookimpl
    def grpo_backends(self) -> dict[str, type[Traveller]]:
        return {"traveller": Traveller}


def main(port: int, directory: Path) -> None:
    """Serve until ended."""
    path = directory / "agent.yaml"
    path.write_text(AGENT + f"output: {directory / 'runs'}\n", encoding="utf-8")
    registry = load_plugins()
    registry.register(Backends(), "bench")
    loaded = load_config(path)
    settings = ServerSettings.of(loaded, port=port, state=directory / "state", rate="1000000/minute")
    serve(settings, create_app(settings, registry, loaded=loaded))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
