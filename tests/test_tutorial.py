"""docs/tutorial.md, whose code is the package beside this file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_host.cli import main

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tests" / "tutorial_package"
PAGE = (ROOT / "docs" / "tutorial.md").read_text()


def test_the_page_shows_each_file_of_the_package_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = next(line for line in PAGE.splitlines() if line.startswith("grpo-host new plugin"))
    assert main(command.split()[1:]) == 0
    written = tmp_path / "acme-bakery"
    for test in (written / "tests").glob("test_*.py"):
        test.unlink()

    for name, text in re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE):
        (written / name).write_text(text)

    of_package = {
        path.relative_to(PACKAGE): path.read_text()
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".yaml", ".toml", ".md")
    }
    assert {
        path: (written / path).read_text() for path in of_package if (written / path).exists()
    } == of_package
    assert {path.relative_to(written) for path in written.rglob("*.py")} == {
        path for path in of_package if path.suffix == ".py"
    }


@pytest.mark.slow
def test_the_package_installs_and_passes_its_own_tests_in_which_its_agent_plays(tmp_path: Path) -> None:
    target = str(tmp_path / "target")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    shutil.copytree(PACKAGE, tmp_path / "bakery", ignore=shutil.ignore_patterns("__pycache__"))
    package = tmp_path / "bakery"
    options = ["--no-deps", "--no-build-isolation", "--target", target, str(package)]
    subprocess.run([*pip, *options], check=True, timeout=200)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=package,
        env={**os.environ, "PYTHONPATH": target},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
