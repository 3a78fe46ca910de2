"""Who gets into the viewer, and what its answers keep a browser from."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from grpo_host.viewer.app import create_app

PORT = 8123
TOKEN = "a-token"


@pytest.fixture
def browser(output):
    output.mkdir()
    with TestClient(create_app(output, TOKEN), base_url=f"http://127.0.0.1:{PORT}") as client:
        yield client


def test_the_address_with_the_token_lets_a_browser_in_and_hides_the_token(browser) -> None:
    assert browser.get("/api/runs").status_code == 401
    opened = browser.get(f"/?token={TOKEN}", follow_redirects=False)
    assert (opened.status_code, opened.headers["location"]) == (303, ".")
    assert "HttpOnly" in opened.headers["set-cookie"]
    assert "SameSite=strict" in opened.headers["set-cookie"]
    assert browser.get("/").status_code == 200
    assert browser.get("/api/runs").json() == {"runs": []}


@pytest.mark.parametrize("path", ["/", "/?token=wrong", "/api/runs", "/index.html"])
def test_without_the_token_nothing_is_shown(browser, path) -> None:
    answer = browser.get(path, headers={"authorization": "Bearer wrong"})
    assert answer.status_code == 401
    assert "the address that grpo-host view has printed" in answer.json()["error"]


def test_a_program_may_send_the_token_as_a_bearer(browser) -> None:
    assert browser.get("/api/runs", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", f"evil.example:{PORT}", f"127.0.0.1.evil.example:{PORT}"])
def test_a_name_of_another_site_that_leads_here_is_refused(browser, host) -> None:
    answer = browser.get(f"/?token={TOKEN}", headers={"host": host}, follow_redirects=False)
    assert answer.status_code == 400
    assert "127.0.0.1 or localhost alone" in answer.json()["error"]


def test_no_answer_lets_a_page_run_what_is_not_ours(browser) -> None:
    for path in (f"/?token={TOKEN}", "/", "/api/runs", "/api/none", "/none"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_a_method_that_would_change_something_is_refused(browser) -> None:
    browser.get(f"/?token={TOKEN}")
    assert browser.post("/api/runs").status_code == 405
