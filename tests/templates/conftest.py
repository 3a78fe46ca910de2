"""A deployment as `grpo-host new deployment` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


class Deployment:
    """The files of one, read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def text(self, name: str) -> str:
        return (self.directory / name).read_text("utf-8")

    def yaml(self, name: str) -> Any:
        (document,) = self.documents(name)
        return document

    def documents(self, name: str) -> list[Any]:
        from ruamel.yaml import YAML

        return list(YAML(typ="safe", pure=True).load_all(self.text(name)))

    @property
    def manifests(self) -> dict[str, Any]:
        """The Kubernetes objects by file."""
        names = {path.name for path in (self.directory / "kubernetes").glob("*.yaml")}
        partial = {"kustomization.yaml", "gpu.yaml"}
        return {name: self.yaml(f"kubernetes/{name}") for name in sorted(names - partial)}

    @property
    def training(self) -> dict[str, Any]:
        """Those of training on several machines."""
        names = {path.name for path in (self.directory / "kubernetes" / "training").glob("*.yaml")}
        return {
            name: self.yaml(f"kubernetes/training/{name}") for name in sorted(names - {"kustomization.yaml"})
        }

    @property
    def pod(self) -> Any:
        return self.manifests["deployment.yaml"]["spec"]["template"]["spec"]

    @property
    def container(self) -> Any:
        (container,) = self.pod["containers"]
        return container

    @property
    def stages(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """The Dockerfile's stages: what each is made from, and its instructions."""
        joined = self.text("Dockerfile").replace("\\\n", " ")
        lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        stages: list[tuple[str, list[tuple[str, str]]]] = [("", [])]
        for line in lines:
            name, _, rest = line.partition(" ")
            if name == "FROM":
                stages.append((rest, []))
            else:
                stages[-1][1].append((name, " ".join(rest.split())))
        return stages

    @property
    def image(self) -> dict[str, str]:
        """The last of each instruction of the image that is run."""
        return dict(self.stages[-1][1])


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    pytest.importorskip("grpo_templates", reason="the templates are not installed: make install")
    from grpo_host.scaffold.deployment import write_deployment

    directory = tmp_path_factory.mktemp("deployment")
    write_deployment(directory)
    return Deployment(directory)
