from __future__ import annotations

import re

import jsonschema
import pytest

from grpo_host.serving.features import all_endpoints, all_websocket_routes
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
    assert shown == {
        (e.method, re.sub(r"{(\w+):\w+}", r"{\1}", e.path)) for e in all_endpoints() if e.documented
    }
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


async def test_the_document_is_served_as_it_is_built(serving):
    async with serving() as server:
        served = await server.client.get("/openapi.json")
        again = await server.client.get("/openapi.json")
        assert served.json() == build_openapi(server.app.state.endpoints)
        assert served.content == again.content


async def test_the_root_leads_a_person_to_the_page_that_says_how_to_begin(serving):
    async with serving() as server:
        await server.key()
        root = await server.client.get("/")
        page = await server.client.get("/", follow_redirects=True)
    assert (root.status_code, root.headers["location"]) == (307, "docs"), "relative: not from the Host header"
    assert page.url.path == "/docs"
    assert "grpo-host keys create" in page.text


async def test_the_page_and_its_files_run_nothing_of_elsewhere(serving):
    async with serving() as server:
        await server.key()
        page = await server.client.get("/docs")
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        linked = {link: await server.client.get(f"/{link}") for link in links}
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert {link: answer.status_code for link, answer in linked.items()} == dict.fromkeys(linked, 200)
    assert len(linked) == 5, "styles, scripts and openapi.json, without a key and by relative links"
    assert not re.findall(r"<style|<script>|\son\w+=|style=|//", page.text)


@pytest.mark.parametrize("name", ["ChatCompletionRequest", "ResponsesRequest", "ChatRequest", "TrainRequest"])
def test_the_example_of_a_request_is_valid_and_names_the_served_model(name):
    schemas = build_openapi(all_endpoints(), model="desk")["components"]["schemas"]
    (example,) = schemas[name]["examples"]
    jsonschema.validate(example, {**schemas[name], "components": {"schemas": schemas}})
    assert example.get("model", "desk") == "desk"
