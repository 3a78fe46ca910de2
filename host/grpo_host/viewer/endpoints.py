"""The endpoints of the viewer's API.

``GET`` alone; ids, never paths. A failure is ``{"error": words}`` with its status.

- ``api/runs``: ``{"runs": [{id, path, name, kind: training|evaluation, state:
  running|finished|stopped|failed, started, steps, planned_steps, seconds_left (or null), size_bytes, model,
  environment, before, warm_start, after: {reward, low, high, success, success_low, success_high, episodes,
  failed, label, step, split} or null, curve: [reward of each step], settings: {those in which the runs of
  the agent differ}}]}``
- ``api/runs/{id}``: ``{id, name, path, kind, state, started, planned_steps, seconds_left, config,
  report, evaluations: [as before], diagnosis: [{rule, severity: info|warning|error, step, noticed, text,
  advice, series: [names]}], index: {state: ready|indexing, share, seconds_left}, series: [names]}``
- ``api/runs/{id}/metrics?after=STEP``: ``{steps: [...], series: {name: [value or null]}, whole: whether
  all calls of tools are counted}``
- ``api/runs/{id}/events?after=STEP``: server-sent events ``metrics`` (new rows, as above), ``index``,
  ``state`` (``{state}``)
- ``api/runs/{id}/trajectories?q=&step=&split=&status=&task=&tool_error=&success=&scored=&cut=&
  min_reward=&max_reward=&order=&limit=&cursor=``: ``{total, next, trajectories: [{id, step, evaluation,
  split, environment, task, group, reward, advantage, success, status, turns, tokens, tool_calls,
  tool_errors, cut, snippet: [[text, is_match]]}]}``; ``step`` may name an evaluation: ``before``
- ``api/runs/{id}/groups?step=``: ``{step, groups: [{id, task, step, rewards, trajectories: [ids]}]}``;
  without ``step`` the last one
- ``api/runs/{id}/groups/{group}``: ``{id, task, step, trajectories: [{as listed, trajectory: the
  record}]}``, the best first
- ``api/runs/{id}/trajectories/{tid}``: ``{trajectory, agents: [{role, sequences}] or null, group,
  advantage, trace_id, trace_url}``
- ``api/runs/{id}/trajectories/{tid}/tokens``: ``{sequences: [{role, weight, text, id, trained, logprob,
  entropy, trainer_logprob, ratio, advantage, policy_version, message, messages: [{role, text, sampled}]}]}``:
  arrays with an entry a token, or null where the run does not know; ``message``: index of the token's
  message, or -1; ``messages``: what the sequence holds, as its agent saw it
- ``api/compare?a=RUN[:[split/]label]&b=...``: ``{paired: {n, difference, low, high}, tasks: [{task, a: {id,
  reward, success: 0 to 1 or null}, b: as a, difference}]}``, the largest difference first

``api/openapi.json`` says the same for programs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from grpo_host.utils.validation import settings_of
from grpo_host.viewer import api
from grpo_host.viewer.compare import compare
from grpo_host.viewer.events import run_events
from grpo_host.viewer.search import Wanted
from grpo_host.viewer.tokens import token_view
from grpo_host.viewer.viewed import Viewed, ViewedRun
from grpo_sdk.errors import RunError

M = TypeVar("M", bound=BaseModel)


class After(BaseModel):
    """The query for steps."""

    model_config = ConfigDict(extra="forbid")

    after: int = 0
    """Those behind this one."""


class Step(BaseModel):
    """The query for one step."""

    model_config = ConfigDict(extra="forbid")

    step: int | None = Field(None, ge=0)
    """None: the last."""


class Pair(BaseModel):
    """What is compared."""

    model_config = ConfigDict(extra="forbid")

    a: str
    b: str


_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}


class Endpoints:
    """Answer about the runs of ``viewed``. All but ``events`` run in threads: they read files."""

    def __init__(self, viewed: Viewed) -> None:
        self._viewed = viewed

    def routes(self) -> list[Route]:
        """The routes of the API."""
        answers = [
            Route(path, self.events if work == self.events else _answered(work))
            for path, work, _ in self._all()
        ]
        return [*answers, Route("/api/{rest:path}", _answered(self.unknown))]

    def _all(self) -> list[tuple[str, Any, type[BaseModel] | None]]:
        """Each path with its method here and its query."""
        one = "/api/runs/{run}"
        return [
            ("/api/openapi.json", self.openapi, None),
            ("/api/runs", self.runs, None),
            (one, self.run, None),
            (f"{one}/metrics", self.metrics, After),
            (f"{one}/events", self.events, After),
            (f"{one}/trajectories", self.trajectories, Wanted),
            (f"{one}/groups", self.groups, Step),
            (f"{one}/groups/{{group:path}}", self.group, None),
            (f"{one}/trajectories/{{tid:path}}/tokens", self.tokens, None),
            (f"{one}/trajectories/{{tid:path}}", self.trajectory, None),
            ("/api/compare", self.compare, Pair),
        ]

    def openapi(self, _: Request) -> dict[str, Any]:
        """This document."""
        paths = {}
        for path, work, asked in self._all():
            parameters = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in re.findall(r"{(\w+)", path)
            ]
            schema = asked.model_json_schema() if asked else {}
            parameters += [
                {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": of}
                for name, of in schema.get("properties", {}).items()
            ]
            kind = "text/event-stream" if work == self.events else "application/json"
            answers = {
                "200": {"description": "As the description says", "content": {kind: {}}},
                "default": {"description": "Why not", "content": {"application/json": {"schema": _ERROR}}},
            }
            paths[re.sub(r":path}", "}", path)] = {
                "get": {"summary": work.__doc__, "parameters": parameters, "responses": answers}
            }
        info = {"title": "grpo-host view", "version": "1", "description": __doc__}
        return {"openapi": "3.1.0", "info": info, "paths": paths}

    def runs(self, _: Request) -> dict[str, Any]:
        """The runs, those that began last first."""
        return api.list_runs(self._viewed)

    def run(self, request: Request) -> dict[str, Any]:
        """A run: settings, report, measurements, diagnosis, how far its index is."""
        return api.show_run(request.path_params["run"], self._asked(request))

    def metrics(self, request: Request) -> dict[str, Any]:
        """What was measured in each step."""
        return api.metrics(self._asked(request), query(request, After).after, api.SOON)

    async def events(self, request: Request) -> Response:
        """What is new of a run, as server-sent events."""
        after = query(request, After).after
        found = await asyncio.to_thread(self._asked, request)
        return StreamingResponse(run_events(self._viewed, found, after), media_type="text/event-stream")

    def trajectories(self, request: Request) -> dict[str, Any]:
        """A page of the trajectories that are asked for."""
        return api.trajectories(self._asked(request), query(request, Wanted))

    def groups(self, request: Request) -> dict[str, Any]:
        """The groups of a step."""
        return api.groups(self._asked(request), query(request, Step).step)

    def group(self, request: Request) -> dict[str, Any]:
        """The trajectories of a group, whole, the best first."""
        return api.group(self._asked(request), request.path_params["group"])

    def trajectory(self, request: Request) -> dict[str, Any]:
        """A trajectory without its tokens."""
        return api.trajectory(self._asked(request), request.path_params["tid"], self._viewed.trace_url)

    def tokens(self, request: Request) -> dict[str, Any]:
        """A trajectory's tokens."""
        return token_view(self._asked(request), request.path_params["tid"])

    def compare(self, request: Request) -> dict[str, Any]:
        """Two evaluations, task by task."""
        asked = query(request, Pair)
        return compare(self._viewed, asked.a, asked.b)

    def unknown(self, request: Request) -> dict[str, Any]:
        """Refuse every other path."""
        raise RunError(f"the API has no {request.path_params['rest']}")

    def _asked(self, request: Request) -> ViewedRun:
        return self._viewed.find(request.path_params["run"])


def query(request: Request, model: type[M]) -> M:
    """The query as ``model``; an empty value counts as none. Raises ``ConfigError``."""
    return settings_of(model, {name: value for name, value in request.query_params.items() if value != ""})


def json_answer(value: Any, status: int = 200) -> Response:
    """``value`` as JSON, in which a number that is not finite is null."""
    content = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS, default=str)
    return Response(content, status, media_type="application/json")


def _answered(work: Callable[[Request], dict[str, Any]]) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        return json_answer(work(request))

    return endpoint
