"""Check an app that is the agent: it is imported, and made if that needs no episode."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from grpo_host.utils.validation import Complaint, Location
from grpo_sdk.errors import ConfigError

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentSection
    from grpo_sdk.backend import Backend

WHERE: Location = ("agent", "runnable")


def check_app(said: AgentSection, backend: Backend | None) -> Iterator[Complaint]:
    """Find what is wrong with the app that ``said`` names, and with what is said of it.

    ``backend``, which is not started, stands for its model; without one it is not made.
    """
    if said.runnable is None:
        for key in ("input", "context", "output", "redirect", "train"):
            if getattr(said, key) not in (None, {}):
                yield Complaint(("agent", key), "this is about an app, and agent.runnable names none")
        return
    yield from _check_settings(said)
    yield from _check_paths(said)
    from grpo_host.langchain.app import failed, load_app

    try:
        app = load_app(said.runnable)
        if backend is not None and app.parameters <= {"model"}:
            from grpo_host.langchain.chat import ChatGrpo
            from grpo_host.langchain.episode_source import EpisodeSource

            asyncio.run(app.runnable({"model": ChatGrpo(source=EpisodeSource(backend))}))
    except ConfigError as problem:
        yield Complaint(WHERE, str(problem))
        return
    except Exception as problem:  # the app's own
        yield Complaint(WHERE, str(failed("making it", problem)))
        return
    if said.tools and "tools" not in app.parameters:
        yield Complaint(
            ("agent", "tools"),
            f"{said.runnable.label} takes no tools. Leave them out, or give it a parameter called tools",
        )


def _check_settings(said: AgentSection) -> Iterator[Complaint]:
    from grpo_host.langchain.app_assembly import weights_from_config

    for key in ("strategy", "system_prompt"):
        if getattr(said, key):
            yield Complaint(("agent", key), "the app in agent.runnable has its own prompt. Leave this out")
    if said.train is not None and not any(weights_from_config(said.train).values()):
        yield Complaint(("agent", "train"), "no role is trained. Leave it out to train all")
    if said.redirect and said.runnable is not None and said.runnable.command is not None:
        yield Complaint(
            ("agent", "redirect"),
            "all model calls of an app in a process of its own are the policy's. Leave this out; "
            "agent.train chooses among the models that it names",
        )
    for name in said.redirect:
        if not all(name.partition(":")):
            yield Complaint(
                ("agent", "redirect", name), "name a model with its provider, such as openai:gpt-5-mini"
            )


def unused_tools(said: AgentSection, tools: Sequence[str]) -> Iterator[str]:
    """A warning if the environment has ``tools`` that the app does not ask for."""
    if said.runnable is None or not tools:
        return
    from grpo_host.langchain.app import load_app

    try:
        asks = "tools" in load_app(said.runnable).parameters
    except ConfigError:
        return  # a complaint says so
    if not asks:
        yield (
            f"agent.runnable: {said.runnable.label} does not ask for tools, so it is played without those of "
            f"the environment: {', '.join(tools)}"
        )


def _check_paths(said: AgentSection) -> Iterator[Complaint]:
    from grpo_host.langchain.mapping import check_path

    paths: list[tuple[Location, str]] = []
    if isinstance(said.input, str):
        paths.append((("agent", "input"), said.input))
    elif said.input is not None:
        paths += [(("agent", "input", key), path) for key, path in said.input.items()]
    paths += [(("agent", "context", key), path) for key, path in said.context.items()]
    for location, path in paths:
        try:
            check_path(path)
        except ConfigError as problem:
            yield Complaint(location, str(problem))
