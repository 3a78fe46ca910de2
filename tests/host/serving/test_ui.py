"""``/ui`` of a server: the page for anyone, runs for administrators alone."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from grpo_host.plugins import Registry
from grpo_host.runs.directory import RunDirectory
from grpo_host.serving.app import create_app
from grpo_host.serving.settings import ServerSettings

RUN = "20261128-100000-aaaa"


@pytest.fixture
def asked(tmp_path):
    """Asks a server with a run for a path, with a key of some scopes or without one."""

    def ask(path, *scopes):
        return asyncio.run(_ask(tmp_path, path, scopes))

    return ask


async def _ask(directory, path, scopes):
    run = RunDirectory(directory / "runs" / "desk" / RUN)
    run.path.mkdir(parents=True, exist_ok=True)
    run.agent_yaml.write_text("name: desk\n")
    (run.path / ".lock").touch()
    settings = ServerSettings.of(runs=directory / "runs", state=directory / "state")
    parts = dict.fromkeys(("telemetry", "models", "chat", "jobs"))
    app = create_app(settings, Registry(), **parts)
    async with app.router.lifespan_context(app):
        keys = app.state.services.keys
        _, key = await keys.create("someone", list(scopes) or ["chat"])
        headers = {"authorization": f"Bearer {key}"} if scopes else {}
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path, headers=headers)


@pytest.mark.parametrize("path", ["/ui/", "/ui/main.js", "/ui/vendor/uplot.css"])
def test_the_page_is_for_anyone_and_runs_only_what_is_its_own(asked, path):
    answer = asked(path)
    assert answer.status_code == 200
    assert "script-src 'self'" in answer.headers["content-security-policy"]


def test_the_address_without_its_slash_leads_to_the_page(asked):
    answer = asked("/ui")
    assert (answer.status_code, answer.headers["location"]) == (307, "ui/")


def test_runs_are_for_administrators(asked):
    assert asked("/ui/api/runs").status_code == 401
    assert asked("/ui/api/runs", "chat", "train").status_code == 403
    assert [run["id"] for run in asked("/ui/api/runs", "admin").json()["runs"]] == [RUN]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/ui/api/runs/{RUN}", 200),
        (f"/ui/api/runs/{RUN}/groups?step=x", 400),
        ("/ui/api/runs/none", 404),
        ("/ui/api/none", 404),
        ("/ui/../agent.yaml", 404),
        ("/ui/%2e%2e/app.py", 404),
    ],
)
def test_the_api_of_the_viewer_answers_under_ui(asked, path, status):
    answer = asked(path, "admin")
    assert answer.status_code == status, answer.text
