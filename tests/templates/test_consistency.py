"""What the templates say of the server is what the server says of itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
from opentelemetry.sdk import environment_variables as sdk_variables
from opentelemetry.util.genai import environment_variables as genai_variables

from grpo_host.checks.check import check
from grpo_host.cli.group import grpo_host
from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.config.schema import ServingConfig
from grpo_host.models.embedded import cache_directory
from grpo_host.plugins import load_plugins
from grpo_host.serving import server, services
from grpo_host.serving.http import observability
from grpo_host.serving.http.endpoint import PUBLIC
from grpo_host.serving.settings import DATABASE_URL, STATE_DIRECTORY, ServerSettings
from grpo_host.telemetry.providers import SERVICE

OTEL = {
    value
    for module in (sdk_variables, genai_variables)
    for name, value in vars(module).items()
    if name.startswith("OTEL_") and isinstance(value, str)
}


def environment(deployment: Any) -> dict[str, dict[str, str]]:
    """The variables that each part sets for the server."""
    assignments = re.findall(r"(\w+)=(\S+)", deployment.image["ENV"])
    compose = deployment.yaml("compose.yaml")["services"]["server"]["environment"]
    pod = {item["name"]: item.get("value", "") for item in deployment.container["env"]}
    return {
        "Dockerfile": dict(assignments),
        "compose.yaml": compose,
        "deployment.yaml": pod | deployment.manifests["configmap.yaml"]["data"],
    }


def arguments(deployment: Any) -> list[list[str]]:
    """The commands that the templates run, without ``grpo-host``."""
    image = re.findall(r'"([^"]*)"', deployment.image["CMD"])
    said = re.findall(r"(?:grpo-host|run --rm server) (keys .*)", deployment.text("README.md"))
    return [image, deployment.container["args"], *(line.split() for line in said)]


def test_one_port_everywhere(deployment: Any) -> None:
    port = ServingConfig().port
    compose = deployment.yaml("compose.yaml")["services"]["server"]
    container = deployment.container["ports"]
    rules = deployment.manifests["networkpolicy.yaml"]["spec"]["ingress"]

    assert deployment.image["EXPOSE"] == str(port)
    assert f"127.0.0.1:{port}/" in deployment.image["HEALTHCHECK"]
    assert [item.rpartition(":")[2] for item in compose["ports"]] == [str(port)]
    assert container == [{"name": "http", "containerPort": port}]
    assert deployment.manifests["service.yaml"]["spec"]["ports"][0]["targetPort"] == "http"
    assert [item["port"] for rule in rules for item in rule["ports"]] == [port]
    for command in arguments(deployment)[:2]:
        assert command[command.index("--port") + 1] == str(port)


def test_probes_ask_for_what_anyone_may_ask(deployment: Any) -> None:
    asked = {
        name: deployment.container[name]["httpGet"]["path"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    (health,) = re.findall(r"http://127\.0\.0\.1:\d+(/\S+?)'", deployment.image["HEALTHCHECK"])

    assert asked["livenessProbe"] == "/health/live", "it stays 200 while the server drains"
    assert {asked["startupProbe"], asked["readinessProbe"], health} == {"/health/ready"}
    assert {("GET", path) for path in (*asked.values(), health)} <= PUBLIC


def test_a_pod_has_time_to_drain_and_to_close(deployment: Any) -> None:
    drain = load_config(deployment.directory / "agent.yaml").config.serving.drain_seconds
    before = deployment.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    after = server.CLOSE_SECONDS + services.CLOSE_SECONDS + observability.FLUSH_SECONDS
    compose = deployment.yaml("compose.yaml")["services"]["server"]["stop_grace_period"]

    assert deployment.pod["terminationGracePeriodSeconds"] > before + drain + after
    assert int(compose.removesuffix("s")) > drain + after


def test_readiness_is_taken_back_before_the_grace_ends(deployment: Any) -> None:
    probe = deployment.container["readinessProbe"]

    assert probe["periodSeconds"] * probe["failureThreshold"] < 30


def test_every_variable_is_one_that_is_read(deployment: Any) -> None:
    ours = {DATABASE_URL, STATE_DIRECTORY, "GRPO_CACHE"}
    python = {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "HOME"}
    hub = {"HF_HOME", "HF_HUB_DISABLE_TELEMETRY"}
    known = ours | python | hub | OTEL | {"WORKERS", "POD_NAME"}

    for file, variables in environment(deployment).items():
        assert set(variables) <= known, file


def test_the_variables_of_the_image_are_taken(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(deployment)["Dockerfile"].items():
        if name.startswith("GRPO_"):
            monkeypatch.setenv(name, value)

    assert ServerSettings.of().state_directory == Path("/data/state")
    assert cache_directory() == Path("/cache/grpo")


def test_the_databases_variable_is_taken(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = environment(deployment)["compose.yaml"][DATABASE_URL]
    monkeypatch.setenv(DATABASE_URL, re.sub(r"\$\{POSTGRES_PASSWORD[^}]*\}", "secret", url))

    assert ServerSettings.of().database() == "postgresql+asyncpg://grpo:secret@postgres:5432/grpo"


def test_what_is_written_to_can_be_written_to(deployment: Any) -> None:
    variables = environment(deployment)["Dockerfile"]
    mounts = [mount["mountPath"] for mount in deployment.container["volumeMounts"]]
    compose = deployment.yaml("compose.yaml")["services"]["server"]
    volumes = [item.split(":")[1] for item in compose["volumes"]]

    for name in ("HOME", "HF_HOME", "GRPO_CACHE", STATE_DIRECTORY):
        assert variables[name].startswith(tuple(mounts)), name
        assert variables[name].startswith(tuple(volumes)), name
    assert deployment.image["WORKDIR"] in mounts
    assert "/tmp" in mounts
    assert "/tmp" in compose["tmpfs"]


def test_one_process_a_pod(deployment: Any) -> None:
    assert environment(deployment)["deployment.yaml"]["WORKERS"] == "1"


def test_the_service_has_one_name_in_all_telemetry(deployment: Any) -> None:
    named = {variables.get("OTEL_SERVICE_NAME") for variables in environment(deployment).values()}

    assert named == {None, SERVICE}


def test_messages_are_captured_by_no_template(deployment: Any) -> None:
    name = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
    chosen = [v[name] for v in environment(deployment).values() if name in v]

    assert chosen == ["NO_CONTENT", "NO_CONTENT"]


def test_every_command_is_one_that_grpo_host_takes(deployment: Any) -> None:
    commands = arguments(deployment)
    assert len(commands) == 4
    for words in commands:
        group: click.Command = grpo_host
        context = click.Context(group)
        rest = list(words)
        while isinstance(group, click.Group):
            name, found, rest = group.resolve_command(context, rest)
            assert found is not None, words
            group = found
        made = group.make_context(name, rest, parent=context)
        assert made.params


@pytest.mark.torch
def test_the_agent_that_is_written_can_be_served_and_trained(deployment: Any) -> None:
    loaded = load_config(deployment.directory / "agent.yaml")

    for purpose in ("chat", "train"):
        check(resolve(loaded, load_plugins()), purpose=purpose).raise_for_problems()
