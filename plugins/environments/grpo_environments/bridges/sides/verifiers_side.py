"""Tasksets of verifiers, beside the package verifiers. Run by ``worker.py``, one fork an episode.

The loop is that of its single-agent environment: set up, the agent and its tools, finalize, score. The agent
is outside, so what verifiers would do between its model and its harness (stops, interceptors) is refused.
"""

from __future__ import annotations

import inspect
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import verifiers.v1 as vf
from mcp.server.mcpserver import MCPServer
from verifiers.v1.envs.single_agent import SingleAgentEnv
from verifiers.v1.mcp import server as toolset_server
from verifiers.v1.runtimes import provision_runtime, subprocess
from verifiers.v1.state import state_cls
from verifiers.v1.types import content_text
from verifiers.v1.utils.decorators import discover_decorated, invoke
from verifiers.v1.utils.loaders import environment_class, load_taskset, taskset_config_type

subprocess.CACHE_DIR = Path.cwd()  # where each episode has its directory; this process's own is deleted


class Side:
    """One episode."""

    def __init__(
        self, taskset: str, directory: str | None, config: dict[str, Any], tasks: int, success: float
    ) -> None:
        if directory is not None:
            sys.path.insert(0, directory)
        own = environment_class(taskset)
        if own is not SingleAgentEnv:
            raise SystemExit(f"taskset: {taskset} is played by an environment of its own ({own.__name__})")
        self.taskset = load_taskset(taskset_config_type(taskset).model_validate({**config, "id": taskset}))
        self.tasks_ = {f"{index:06d}": task for index, task in enumerate(self.taskset.take(tasks))}
        for task in self.tasks_.values():
            refuse_what_is_not_bridged(task)
            break
        self.least = success
        self.stack = AsyncExitStack()
        self.names: dict[str, tuple[MCPServer, str]] = {}
        self.judged: dict[str, Any] | None = None

    def tasks(self) -> list[dict[str, Any]]:
        return [
            {
                "id": name,
                "group": task.key,
                "data": task.data.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
            }
            for name, task in self.tasks_.items()
        ]

    async def begin(self, task: str, data: dict[str, Any], seed: int) -> dict[str, Any]:
        self.task = self.tasks_[task]
        config = vf.AgentConfig(runtime=vf.SubprocessConfig(), harness=vf.HarnessConfig(id="null"))
        self.trace = vf.Trace(
            task=vf.TraceTask(
                type=type(self.task).__name__, data=self.task.data, key=self.task.key, hash=self.task.hash
            ),
            state=state_cls(type(self.task))(),
            agent=vf.AgentInfo(config=config),
        )
        self.runtime = await self.stack.enter_async_context(
            provision_runtime(config.runtime, self.trace.id, self.task.runtime_env())
        )
        await invoke(self.task.setup, {"trace": self.trace, "runtime": self.runtime})
        tools = [
            *await self._served(type(self.taskset).toolsets(self.taskset.config), None),
            *await self._served(type(self.task).toolsets(self.task.config), self.task.data),
        ]
        self.trace.tools = [vf.Tool(**tool["function"]) for tool in tools]
        opening = opening_of(self.task.data)
        self._keep(opening, sampled=False)
        return {"messages": opening, "tools": tools}

    async def call(self, name: str, arguments: dict[str, Any]) -> str:
        server, tool = self.names[name]
        token = toolset_server._call_state.set(self.trace.state)
        try:
            result: Any = await server.call_tool(tool, arguments)
        except Exception as problem:
            return f"Error: {problem}"
        finally:
            toolset_server._call_state.reset(token)
        return "\n".join(part.text for part in result.content if part.type == "text")

    async def say(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        outcome = await self.outcome(said)
        return {"done": True, "outcome": outcome, "reward": outcome["score"]}

    async def outcome(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        if self.judged is None:
            self._keep(said, sampled=True)
            await invoke(self.task.finalize, {"trace": self.trace, "runtime": self.runtime})
            await self.task.score(self.trace, self.runtime)
            await self.stack.aclose()
            facts: dict[str, Any] = {name: one.score for name, one in self.trace.rewards.items() if one}
            facts |= {name: value for name, value in self.trace.metrics.items() if value is not None}
            self.judged = {
                **facts,
                "success": self.trace.reward >= self.least,
                "score": self.trace.reward,
            }
        return self.judged

    def _keep(self, messages: list[dict[str, Any]], *, sampled: bool) -> None:
        """Note ``messages`` on the trace, as verifiers' own messages."""
        for message in messages:
            nodes = self.trace.nodes
            nodes.append(
                vf.MessageNode(
                    parent=len(nodes) - 1 if nodes else None,
                    message=theirs(message),
                    sampled=sampled and message["role"] == "assistant",
                )
            )

    async def _served(self, toolsets: list[Any], data: Any) -> list[dict[str, Any]]:
        """The tools of ``toolsets``, called in this process: their state is the trace's."""
        found = []
        for toolset in toolsets:
            if toolset.config.url:
                name, url = toolset.server_name, toolset.config.url
                raise ValueError(f"the tools of {name} are at {url}: not bridged")
            await self.stack.enter_async_context(toolset._exit_stack)
            await toolset.setup()
            if data is not None:
                await toolset.setup_task(data)
            server = MCPServer(toolset.server_name or type(toolset).__name__)
            for function in discover_decorated(toolset, "tool"):
                name = getattr(function, "tool_name", None) or function.__name__
                server.add_tool(function, name=name, description=inspect.getdoc(function))
            for tool in await server.list_tools():
                shown = f"{toolset.server_name}_{tool.name}" if toolset.server_name else tool.name
                self.names[shown] = (server, tool.name)
                described = {
                    "name": shown,
                    "description": tool.description or "",
                    "parameters": tool.input_schema,
                }
                found.append({"type": "function", "function": described})
        return found


def refuse_what_is_not_bridged(task: Any) -> None:
    """Raise ``SystemExit`` if ``task`` needs what an agent outside of verifiers cannot give it."""
    name = type(task).__name__
    if type(task).NEEDS_CONTAINER:
        raise SystemExit(f"{name} needs a container, and a bridged task has a directory alone")
    if task.hooks("stop") or discover_decorated(task, "intercept"):
        raise SystemExit(f"{name} stops or changes what its agent says (stop, intercept): not bridged")
    if task.data.prompt is None:
        raise SystemExit(f"{name} has no prompt: a user has to open it, who is not bridged")


def opening_of(data: Any) -> list[dict[str, Any]]:
    """What the agent is told first."""
    told = [] if data.system_prompt is None else [{"role": "system", "content": data.system_prompt}]
    if isinstance(data.prompt, str):
        return [*told, {"role": "user", "content": data.prompt}]
    return [*told, *({"role": one.role, "content": content_text(one.content)} for one in data.prompt)]


def theirs(message: dict[str, Any]) -> Any:
    """A message as verifiers has it."""
    match message["role"]:
        case "assistant":
            calls = [
                vf.ToolCall(id=call["id"], **call["function"]) for call in message.get("tool_calls") or ()
            ]
            return vf.AssistantMessage(content=message["content"], tool_calls=calls or None)
        case "tool":
            return vf.ToolMessage(tool_call_id=message["tool_call_id"], content=message["content"])
        case "system":
            return vf.SystemMessage(content=message["content"])
        case _:
            return vf.UserMessage(content=message["content"])
