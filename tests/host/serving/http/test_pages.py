from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import shutil
import subprocess

import jsonschema
import pytest

from grpo_host.serving.features import all_endpoints, all_websocket_routes
from grpo_host.serving.http import pages
from grpo_host.serving.http.openapi import build_openapi


@pytest.fixture
def document():
    return build_openapi(all_endpoints(), all_websocket_routes())


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_endpoint_is_documented_and_nothing_else(document):
    shown = {(method.upper(), path) for path, method, _ in operations(document)}
    assert shown == {(e.method, re.sub(r"{(\w+):\w+}", r"{\1}", e.path)) for e in all_endpoints()}
    assert set(document["x-websockets"]) == {route.path for route in all_websocket_routes()}


def test_operations_have_names_of_their_own(document):
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names)), sorted(names)


def test_references_lead_to_schemas_that_are_schemas(document):
    schemas = document["components"]["schemas"]

    def walk(value):
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                assert value["$ref"].removeprefix("#/components/schemas/") in schemas
            for child in value.values():
                walk(child)
        elif isinstance(value, list):
            for child in value:
                walk(child)

    walk(document)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_only_public_operations_need_no_key(document):
    from grpo_host.serving.http.endpoint import PUBLIC

    for path, method, operation in operations(document):
        assert (operation["security"] == []) == ((method.upper(), path) in PUBLIC), path
        assert (not operation["security"]) or operation["responses"]["401"], path


def test_the_document_is_served_as_it_is_built(serving):
    async def work():
        async with serving() as server:
            served = await server.client.get("/openapi.json")
            again = await server.client.get("/openapi.json")
            assert served.json() == build_openapi(server.app.state.endpoints)
            assert served.content == again.content

    asyncio.run(work())


def test_the_root_leads_a_person_to_the_page_that_says_how_to_begin(serving):
    async def work():
        async with serving() as server:
            await server.key()
            root = await server.client.get("/")
            page = await server.client.get("/", follow_redirects=True)
            return root, page

    root, page = asyncio.run(work())
    assert (root.status_code, root.headers["location"]) == (307, "docs"), "relative: not from the Host header"
    assert page.url.path == "/docs"
    assert "grpo-host keys create" in page.text


def test_the_page_runs_its_own_script_and_no_other(serving):
    async def work():
        async with serving() as server:
            return await server.client.get("/docs")

    answer = asyncio.run(work())
    policy = answer.headers["content-security-policy"]
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"https?://|//[a-z]+\.", answer.text)  # nothing comes from elsewhere
    assert not re.findall(r"\son\w+=|javascript:|style=\"|innerHTML", answer.text)


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_the_page_lists_the_endpoints_and_sends_what_is_written(document, tmp_path):
    """The page's script in Node, on a document of a few objects that stand in for a browser's."""
    import json

    script = tmp_path / "page.mjs"
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    source = (pages.files("grpo_host.serving.http") / "page" / "docs.js").read_text("utf-8")
    script.write_text(BROWSER + source + USER)
    result = subprocess.run(["node", script.name], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["listed"] == len(list(operations(document)))
    assert told["asked"] == "health"
    assert "200 OK" in told["shown"]
    assert '{"status":"ok"}' in told["shown"]


BROWSER = """
import { readFileSync } from "node:fs";
const asked = [];
class Element {
  constructor(tag) { this.tag = tag; this.children = []; this.textContent = ""; this.handlers = {}; }
  append(...children) {
    for (const child of children) typeof child === "string" ? (this.textContent += child) : this.children.push(child);
  }
  replaceChildren(...children) { this.children = children; }
  addEventListener(name, handler) { this.handlers[name] = handler; }
}
const known = { operations: new Element("main"), key: { value: "grpo_key" } };
globalThis.document = { getElementById: (id) => known[id], createElement: (tag) => new Element(tag) };
globalThis.FormData = class { get(name) { return name; } };
globalThis.fetch = async (target, options) => {
  asked.push([target, options]);
  return target === "openapi.json"
    ? { json: async () => JSON.parse(readFileSync("openapi.json", "utf8")) }
    : new Response('{"status":"ok"}', { status: 200, statusText: "OK" });
};
"""

USER = """
const all = known.operations.children.filter((child) => child.tag === "details");
const health = all.find((shown) => shown.children[0].children[1].textContent === "/health");
const [, , form, output] = health.children;
form.handlers.submit({ preventDefault() {} });
await new Promise((done) => setTimeout(done, 200));
const [target, options] = asked[1];
if (options.headers.authorization !== "Bearer grpo_key") throw new Error("no key was sent");
console.log(JSON.stringify({ listed: all.length, asked: target, shown: output.textContent }));
"""
