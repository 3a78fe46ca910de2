"""The Kubernetes manifests: valid by Kubernetes' own schemas, and within the rules of its hardened pods."""

from __future__ import annotations

import copy
import shutil
import subprocess
from typing import Any

import pytest
from ruamel.yaml import YAML

OLDEST, NEWEST = "1.30", "1.37"
"""``preStop.sleep`` is there since 1.30."""


@pytest.fixture(scope="module")
def schemas() -> Any:
    """kubernetes-validate: the schemas of Kubernetes' OpenAPI, strict, as kubeconform has them."""
    return pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")


@pytest.fixture(scope="module")
def built(deployment: Any) -> list[Any]:
    """What `kubectl apply -k` would send."""
    return kustomized(deployment.directory / "kubernetes")


def kustomized(folder: Any) -> list[Any]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        ["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(YAML(typ="safe", pure=True).load_all(done.stdout))


def test_kustomize_builds_the_training(deployment: Any, schemas: Any) -> None:
    built = kustomized(deployment.directory / "kubernetes" / "training")
    for item in built:
        schemas.validate(item, NEWEST, strict=True)

    kinds = sorted(item["kind"] for item in built)
    assert kinds == ["Deployment", "Job", "NetworkPolicy", "Service", "Service"]
    assert {item["metadata"]["namespace"] for item in built} == {"grpo"}
    (job,) = [item for item in built if item["kind"] == "Job"]
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "grpo-server-gpu:0.1.0"


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_manifest_is_valid(deployment: Any, schemas: Any, version: str) -> None:
    assert len(deployment.manifests) == 10
    assert len(deployment.training) == 5
    for manifest in [*deployment.manifests.values(), *deployment.training.values()]:
        schemas.validate(manifest, version, strict=True)


def test_a_manifest_with_a_mistake_is_not(deployment: Any, schemas: Any) -> None:
    wrong = copy.deepcopy(deployment.manifests["deployment.yaml"])
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}

    with pytest.raises(schemas.utils.ValidationError, match="readynessProbe"):
        schemas.validate(wrong, NEWEST, strict=True)


def test_kustomize_puts_all_of_it_into_one_namespace_with_the_image(built: list[Any], schemas: Any) -> None:
    for item in built:
        schemas.validate(item, NEWEST, strict=True)
    kinds = sorted(item["kind"] for item in built)
    (workload,) = [item for item in built if item["kind"] == "Deployment"]

    assert kinds == [
        "ConfigMap",
        "Deployment",
        "Namespace",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    ]
    assert {item["metadata"].get("namespace", "grpo") for item in built} == {"grpo"}
    assert workload["spec"]["template"]["spec"]["containers"][0]["image"] == "grpo-server:0.1.0"


def test_a_gpu_is_a_patch_away(deployment: Any, built: list[Any], tmp_path: Any, schemas: Any) -> None:
    folder = shutil.copytree(deployment.directory / "kubernetes", tmp_path / "kubernetes")
    file = folder / "kustomization.yaml"
    file.write_text(file.read_text().replace("# patches:\n#   - path", "patches:\n  - path"))
    done = subprocess.run(
        ["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60, check=True
    )
    (workload,) = [
        item for item in YAML(typ="safe", pure=True).load_all(done.stdout) if item["kind"] == "Deployment"
    ]

    schemas.validate(workload, NEWEST, strict=True)
    limits = workload["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    assert "memory" in limits


def test_three_replicas_of_which_two_always_run(deployment: Any) -> None:
    workload = deployment.manifests["deployment.yaml"]["spec"]

    assert workload["replicas"] == 3
    assert workload["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert deployment.manifests["poddisruptionbudget.yaml"]["spec"]["minAvailable"] == 2


def test_whatever_selects_the_servers_pods_selects_them(deployment: Any) -> None:
    manifests = deployment.manifests
    labels = manifests["deployment.yaml"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        manifests["deployment.yaml"]["spec"]["selector"]["matchLabels"],
        manifests["service.yaml"]["spec"]["selector"],
        manifests["poddisruptionbudget.yaml"]["spec"]["selector"]["matchLabels"],
        manifests["networkpolicy.yaml"]["spec"]["podSelector"]["matchLabels"],
        deployment.pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]

    assert selectors == [labels] * 5
    assert manifests["keys.yaml"]["metadata"]["labels"] != labels, "requests must not come to it"


def pods(deployment: Any) -> list[Any]:
    return [deployment.pod, deployment.manifests["keys.yaml"]["spec"]]


def training_pods(deployment: Any) -> list[Any]:
    return [deployment.training[name]["spec"]["template"]["spec"] for name in ("job.yaml", "replicas.yaml")]


def test_pods_keep_to_the_restricted_standard(deployment: Any) -> None:
    labels = deployment.manifests["namespace.yaml"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in [*pods(deployment), *training_pods(deployment)]:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_every_container_has_limits_and_requests(deployment: Any) -> None:
    for pod in [*pods(deployment), *training_pods(deployment)]:
        for container in pod["containers"]:
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][kind])


def test_the_databases_address_comes_from_a_secret_and_is_nowhere_in_clear(deployment: Any) -> None:
    for pod in pods(deployment):
        (variable,) = [item for item in pod["containers"][0]["env"] if item["name"] == "GRPO_DATABASE_URL"]
        assert variable["valueFrom"]["secretKeyRef"] == {"name": "grpo-database", "key": "url"}
    secret = deployment.manifests["secret.example.yaml"]
    assert (secret["metadata"]["name"], list(secret["stringData"])) == ("grpo-database", ["url"])
    assert "secret" not in deployment.text("kubernetes/kustomization.yaml"), "its example must not be applied"


def test_every_mount_has_its_volume(deployment: Any) -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in deployment.container["volumeMounts"]}

    assert sorted(mounts) == sorted(volume["name"] for volume in deployment.pod["volumes"])
    claim = deployment.manifests["volume.yaml"]["metadata"]["name"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": claim}} in deployment.pod["volumes"]


def test_the_ranks_of_a_job_find_each_other(deployment: Any) -> None:
    job, service = deployment.training["job.yaml"], deployment.training["job-service.yaml"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    port = service["spec"]["ports"][0]["port"]

    assert job["spec"]["completionMode"] == "Indexed"
    assert f"--nnodes={job['spec']['completions']}" in container["args"]
    assert job["spec"]["parallelism"] == job["spec"]["completions"]
    assert f"--rdzv-endpoint={job['metadata']['name']}-0.{pod['subdomain']}:{port}" in container["args"]
    assert (service["metadata"]["name"], service["spec"]["clusterIP"]) == (pod["subdomain"], "None")
    assert service["spec"]["selector"] == job["spec"]["template"]["metadata"]["labels"]


def test_the_ranks_ask_the_replicas_and_give_them_adapters_where_they_see_them(deployment: Any) -> None:
    training = deployment.training
    rank, replica = (pod["containers"][0] for pod in training_pods(deployment))
    service, policy = training["replicas-service.yaml"], training["networkpolicy.yaml"]["spec"]
    labels = training["replicas.yaml"]["spec"]["template"]["metadata"]["labels"]
    address = f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"

    assert f'--set=backend.options.servers=["{address}"]' in rank["args"]
    assert service["spec"]["clusterIP"] == "None", "each replica is asked by its own address"
    assert service["spec"]["selector"] == policy["podSelector"]["matchLabels"] == labels
    (allowed,) = policy["ingress"][0]["from"]
    ranks = training["job.yaml"]["spec"]["template"]["metadata"]["labels"]
    assert allowed["podSelector"]["matchLabels"] == ranks
    (adapters,) = [arg.partition("adapters=")[2] for arg in rank["args"] if "adapters=" in arg]
    for container in (rank, replica):
        (data,) = [mount for mount in container["volumeMounts"] if mount["name"] == "data"]
        assert adapters.startswith(data["mountPath"] + "/")


def test_the_command_of_the_ranks_is_one_that_grpo_host_takes(deployment: Any, tmp_path: Any) -> None:
    import click

    from grpo_host.cli.run import command
    from grpo_host.config.schema import TrainingConfig

    (rank,) = training_pods(deployment)[0]["containers"]
    verb, path, *options = rank["args"]
    agent = tmp_path / "agent.yaml"
    agent.write_text(deployment.text("agent.yaml"))
    context = click.Context(command)
    command.parse_args(context, [str(agent), *options])

    assert (verb, path) == ("run", "/app/agent.yaml")
    assert (context.params["nnodes"], context.params["resume"]) == (2, "auto")
    known = TrainingConfig.model_fields
    sets = [option.partition("=")[2] for option in options if option.startswith("--set=training.")]
    assert all(change.removeprefix("training.").partition("=")[0] in known for change in sets)


def test_the_metadata_service_of_the_cloud_cannot_be_reached(deployment: Any) -> None:
    rules = deployment.manifests["networkpolicy.yaml"]["spec"]["egress"]
    blocks = [to["ipBlock"] for rule in rules for to in rule["to"] if "ipBlock" in to]

    assert blocks
    assert all("169.254.0.0/16" in block["except"] for block in blocks)
    assert all("ports" in rule for rule in rules)
