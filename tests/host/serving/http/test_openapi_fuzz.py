"""Thousands of requests that the OpenAPI document allows, and as many that it does not, at a real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import Counter

import hypothesis
import pytest
import requests
import schemathesis
import uvicorn
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from grpo_host.config.load import load_config
from grpo_host.plugins import load_plugins
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.app import create_app
from grpo_host.serving.http.protocol import BoundedProtocol
from grpo_host.serving.settings import ServerSettings

CASES = int(os.environ.get("GRPO_FUZZ_CASES", "1000"))
"""The same at each run, so more are only worth their minutes where something changed: see CONTRIBUTING.md."""
ROUND = 5
"""Cases of one operation and mode before the next has its turn."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]

AGENT = """
name: fuzzed
model: scripted
backend:
  name: scripted
  options:
    replies:
      - role: assistant
        content: ""
        tool_calls:
          - {id: call_0, type: function, function: {name: calculator, arguments: '{"expression": "6*7"}'}}
      - It is 42.
environment: arithmetic
rewards: [length]
agent: {tools: [calculator]}
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request, tmp_path, monkeypatch):
    """The whole server on the scripted backend, at a port; its URL, a key to everything, how often to ask."""
    database = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    monkeypatch.setattr("grpo_host.serving.jobs.process.training_command", lambda *_: lambda _: ["true"])
    monkeypatch.setattr("grpo_host.serving.jobs.plan.TRAINABLE", frozenset())  # scripts cannot be trained
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.yaml").write_text(AGENT)
    loaded = load_config(tmp_path / "agent.yaml")
    settings = ServerSettings.of(
        loaded,
        rate="100000000/second",
        failed_rate="100000000/second",
        max_queued_jobs=3,
        drain_seconds=2,
        database_url=database,
    )
    app = create_app(settings, load_plugins(), loaded=loaded)
    config = uvicorn.Config(app, http=BoundedProtocol, port=0, log_config=None, lifespan="on")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started and thread.is_alive():
        time.sleep(0.02)
    assert running.started
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        cases = CASES if database is None else CASES // 5  # it answers the same way, not as fast
        yield f"http://127.0.0.1:{port}", asyncio.run(make_key(settings)), cases
    finally:
        running.should_exit = True
        thread.join(30)


async def make_key(settings):
    from grpo_host.serving.access.keys import KeyStore
    from grpo_host.storage import database

    engine = database.make_engine(settings.database())
    _, token = await KeyStore(engine).create("fuzz", list(Scope))
    await engine.dispose()
    return token


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_request_breaks_the_server_or_gets_past_it(server, record_property):
    url, token, cases = server
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    schema.config.generation.update(with_security_parameters=False)  # what is wrong with keys is asked below
    operations = [result.ok() for result in schema.get_all_operations()]
    session = requests.Session()
    statuses: dict[str, Counter[int]] = {operation.label: Counter() for operation in operations}
    known = {"model": "fuzzed", "model_id": "fuzzed"}

    def ask(operation, mode, case):
        nonlocal known
        if mode is GenerationMode.POSITIVE:
            name_what_is_there(case, known)
        public = operation.definition.raw["security"] == []
        answer = case.call(session=session, headers={"authorization": f"Bearer {token}"}, timeout=30)
        statuses[operation.label][answer.status_code] += 1
        # Schemathesis does not count "too large" as a refusal.
        checks = [c for c in CHECKS if answer.status_code != 413 or c is not negative_data_rejection]
        case.validate_response(answer, checks=checks)
        told = answer.json() if operation.method == "post" and answer.status_code < 300 else None
        if isinstance(told, dict):  # and no stream of events
            known |= {name: value for name, value in told.items() if name in IDENTIFIERS}
        if not public and sum(statuses[operation.label].values()) % 3 == 0:
            for wrong in ({}, {"authorization": f"Bearer {token[:-2]}__"}):
                refused = case.call(session=session, headers={"authorization": None, **wrong}, timeout=30)
                assert refused.status_code == 401, case.as_curl_command()

    # What deletes comes last in a round, and what deletes all at the very end: the others ask for what is there.
    operations = sorted(
        operations,
        key=lambda one: (one.method == "delete", one.path.endswith("conversations")),
    )
    number = 0
    while (total := sum(map(Counter.total, statuses.values()))) < cases:
        assert number < 500, f"only {total} different requests can be made"
        for operation in operations:
            if number and not has_input(operation):
                continue  # all that can be asked has been asked
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                fuzz(operation, mode, number, ask)
        number += 1
    record_property("cases", total)
    print(f"\n{total} requests with a key")
    for label, counts in statuses.items():
        print(f"{label:45} {dict(sorted(counts.items()))}")
    failed = {label for label, counts in statuses.items() if not any(200 <= s < 400 for s in counts)}
    assert failed <= {"POST /api/jobs/{job_id}/cancel"}  # the requests are not all refused at the door


IDENTIFIERS = ("conversation_id", "job_id")


def name_what_is_there(case, known):
    """Every second request is for a model, conversation or job that exists: no random text is one."""
    if sum(map(ord, repr(case.body) + repr(case.path_parameters))) % 2:
        return
    for name in case.path_parameters:
        case.path_parameters[name] = known.get(name, case.path_parameters[name])
    if isinstance(case.body, dict):
        for name in {*IDENTIFIERS, "model"} & set(case.body) & set(known):
            case.body[name] = known[name]


def has_input(operation):
    return bool(operation.body) or bool(operation.definition.raw.get("parameters"))


def fuzz(operation, mode, number, ask):
    if mode is GenerationMode.NEGATIVE and not (operation.body or list(operation.query)):
        return  # nothing can be wrong with a text in a path
    settings = hypothesis.settings(
        max_examples=ROUND if has_input(operation) else 1,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    @hypothesis.seed(number)
    @settings
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def run(case):
        ask(operation, mode, case)

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # nothing of this kind can be made
        run()
