"""Pages of other origins: what a browser asks first, what it may read, and a real one with OpenAI's client."""

from __future__ import annotations

import asyncio
import http.server
import json
import queue
import shutil
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from grpo_host.config.load import load_config
from grpo_host.plugins import load_plugins
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.app import create_app
from grpo_host.serving.settings import ServerSettings

PAGE = "https://app.example"
SENT_BY_THE_CLIENT = (
    "authorization,content-type,openai-organization,openai-project,x-stainless-arch,x-stainless-lang,"
    "x-stainless-os,x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,"
    "x-stainless-runtime-version,x-stainless-timeout,idempotency-key,traceparent"
)
"""What openai 7.59 for JavaScript sends beside the headers that need no leave, and what its users add."""


def preflight(origin, **more):
    return {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": SENT_BY_THE_CLIENT,
        **more,
    }


async def test_a_browser_may_send_what_the_javascript_client_sends(serving):
    async with serving(allowed_origins=[PAGE]) as server:
        answer = await server.client.options("/v1/say", headers=preflight(PAGE))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    allowed = {name.strip() for name in answer.headers["access-control-allow-headers"].lower().split(",")}
    assert allowed >= set(SENT_BY_THE_CLIENT.split(","))
    assert len(answer.headers["x-request-id"]) == 32, "a preflight is an answer like all others"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_public_page_that_is_listed_may_ask_a_server_in_a_private_network(serving):
    async def work():
        async with serving(allowed_origins=[PAGE]) as server:
            asked = preflight(PAGE, **{"access-control-request-private-network": "true"})
            return (await server.client.options("/v1/say", headers=asked)).headers

    assert (await work())["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/api/say", {}, 401),
        ("/v1/say", {"authorization": "Bearer wrong"}, 401),
        ("/nothing", {"authorization": ""}, 404),
        ("/api/fail", {"authorization": ""}, 405),
        ("/api/say", {"authorization": "", "content-type": "text/plain"}, 415),
        ("/api/say", {"authorization": "", "host": "rebound.example"}, 400),
        ("/api/say", {"authorization": "", "limited": "yes"}, 429),
    ],
    ids=["no key", "wrong key", "no path", "no method", "no json", "no host", "limited"],
)
async def test_a_page_that_may_ask_may_read_the_errors_too(serving, path, headers, status):
    async with serving(allowed_origins=[PAGE], rate="2/minute") as server:
        key = await server.key()
        asked = {**headers, "origin": PAGE}
        if asked.get("authorization") == "":
            asked.update(key)
        if asked.pop("limited", None):
            for _ in range(2):
                await server.client.post(path, json={"text": "hello"}, headers=key)
        answer = await server.client.post(path, content=b'{"text": "hello"}', headers=asked)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    assert answer.headers["vary"] == "Origin"


async def test_the_refusal_while_draining_can_be_read(serving):
    async with serving(allowed_origins=[PAGE]) as server:
        server.services.admission.begin_draining()
        answer = await server.client.post("/api/say", json={"text": "hello"}, headers={"origin": PAGE})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (503, PAGE)
    assert "retry-after" in answer.headers["access-control-expose-headers"]


async def test_a_page_that_may_not_ask_can_read_no_error_either(serving):
    async with serving(allowed_origins=[PAGE]) as server:
        await server.key()
        answer = await server.client.post(
            "/api/say", json={"text": "hello"}, headers={"origin": "https://evil.example"}
        )
    assert answer.status_code == 401
    assert "access-control-allow-origin" not in answer.headers


CLIENT = "7.59.0"
"""Of npm's openai."""
HTML = """<!doctype html><script type="importmap">{"imports": {"openai": "/openai/index.mjs",
"#x509-transport-state": "/openai/internal/auth/x509-transport-state.mjs"}}</script>
<script type="module">
const told = {};
const tell = () => fetch("/told", {method: "POST", body: JSON.stringify(told)});
addEventListener("error", (event) => { told.error = event.message; tell(); });
try {
  const { default: OpenAI } = await import("openai");
  const make = (apiKey) =>
    new OpenAI({ apiKey, baseURL: "%(url)s/v1", organization: "o", dangerouslyAllowBrowser: true, maxRetries: 0 });
  const client = make("%(key)s");
  const asked = { model: "desk", messages: [{ role: "user", content: "Hello" }] };
  const { data, request_id } = await client.chat.completions.create(asked).withResponse();
  told.said = data.choices[0].message.content;
  told.request_id = request_id;
  told.streamed = "";
  for await (const piece of await client.chat.completions.create({ ...asked, stream: true })) {
    told.streamed += piece.choices[0]?.delta.content ?? "";
  }
  told.models = (await client.models.list()).data.map((model) => model.id);
  const failed = (promise) => promise.then(() => "answered", (problem) => `${problem.status} ${problem.code}`);
  told.unknown = await failed(client.chat.completions.create({ ...asked, model: "none" }));
  told.wrong = await failed(make("grpo_wrong").models.list());
} catch (problem) {
  told.error = String(problem);
}
tell();
</script>"""


@pytest.fixture(scope="session")
def javascript_client():
    """The directory of OpenAI's own JavaScript client; skipped where npm cannot install it."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    place = Path.home() / ".cache" / "grpo-agent-framework" / "tests" / f"openai-{CLIENT}"
    package = place / "node_modules" / "openai"
    if not (package / "index.mjs").is_file():
        place.mkdir(parents=True, exist_ok=True)
        quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-save"]
        command = ["npm", "install", "--prefix", str(place), *quiet, f"openai@{CLIENT}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            pytest.skip(f"npm cannot install openai@{CLIENT}: {done.stderr.strip()[-200:]}")
    return package


@pytest.fixture(scope="session")
def chromium():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    return found


@contextmanager
def page_server(package):
    """Serves one page and the client; gives its server and what the page tells."""
    told = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map = {".mjs": "text/javascript"}  # noqa: RUF012 - as the class it derives from has it

        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(package.parent))

        def do_GET(self):
            if self.path != "/":
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(self.server.page.encode())

        def do_POST(self):
            told.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        yield pages, told
        pages.shutdown()


@pytest.mark.slow
def test_openai_s_client_talks_to_the_server_from_a_page_in_chromium(
    chromium, javascript_client, tmp_path, monkeypatch
):
    monkeypatch.setattr("grpo_host.serving.server.logging_config", lambda: None)
    path = tmp_path / "agent.yaml"
    path.write_text(
        "name: desk\nmodel: tiny\nbackend: {name: scripted, options: {replies: [Good morning!]}}\n"
        f"environment: support_desk\nrewards: [length]\noutput: {tmp_path / 'runs'}\n"
    )
    loaded = load_config(path)
    with page_server(javascript_client) as (pages, told):
        origin = f"http://127.0.0.1:{pages.server_port}"
        settings = ServerSettings.of(loaded, state=tmp_path / "state", allowed_origins=[origin])
        app = create_app(settings, load_plugins(), loaded=loaded)
        _, key = asyncio.run(_new_key(settings))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            thread.join(0.02)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        pages.page = HTML % {"url": url, "key": key}
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        browser = subprocess.Popen(
            [chromium, *quiet, profile, "--remote-debugging-port=0", origin],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            seen = told.get(timeout=180)
        finally:
            browser.kill()
            browser.wait()
            server.should_exit = True
            thread.join(20)
    assert "error" not in seen, seen
    assert (seen["said"], seen["streamed"]) == ("Good morning!", "Good morning!")
    assert len(seen["request_id"]) == 32
    assert "desk" in seen["models"]
    assert seen["unknown"] == "404 model_not_found"
    assert seen["wrong"] == "401 unauthorized"


async def _new_key(settings):
    from grpo_host.serving.access.keys import KeyStore
    from grpo_host.storage import database
    from grpo_host.storage.migrations import migrate

    engine = database.make_engine(settings.database())
    try:
        await migrate(engine)
        return await KeyStore(engine).create("page", [Scope.CHAT])
    finally:
        await engine.dispose()
