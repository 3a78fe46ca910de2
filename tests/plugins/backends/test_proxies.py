"""The backends ``openai`` and ``litellm`` behind a proxy that the standard variables name."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from grpo_backends.errors import ProviderError
from grpo_backends.openai_http import OpenAIChatBackend
from grpo_sdk import ConfigError, ModelSpec, Sampling, user

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*ReadOnly.*qualifier:UserWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def call(make, monkeypatch):
    """What a server, or the proxy before it, hears of one call to ``base_url``, and what comes of it."""

    def call(
        base_url: str,
        proxy: str = "",
        refusal: str = "",
        certificate: tuple[Path, Path] | None = None,
    ) -> Any:
        heads: list[str] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            heads.append(head.decode())
            if head.startswith(b"CONNECT") and certificate is not None:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                secret = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                secret.load_cert_chain(*certificate)
                await writer.start_tls(secret)
                head = await reader.readuntil(b"\r\n\r\n")
                heads.append(head.decode())
            if length := re.search(rb"content-length: (\d+)", head, re.I):
                await reader.readexactly(int(length[1]))
            writer.write(refusal.encode() or GOOD)
            await writer.drain()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

        async def go() -> Any:
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            if proxy:
                monkeypatch.setenv(proxy, f"http://ann:s%40t@127.0.0.1:{port}")
            backend = make(base_url.format(port=port), retries=0, timeout=10.0)
            await backend.start()
            try:
                return (await backend.chat([user("Hi")], Sampling())).message["content"]
            except ProviderError as problem:
                return problem
            finally:
                await backend.close()
                server.close()

        return heads, asyncio.run(go())

    return call


BODY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "mock",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    }
).encode()
GOOD = (
    f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(BODY)}\r\n"
    "connection: close\r\n\r\n"
).encode() + BODY
AUTHORIZATION = "proxy-authorization: basic yw5uonnada==\r\n"  # ann:s@t, in lower case
REFUSED = "HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Of the server ``models.test``, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes a certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "certificate.pem", folder / "key.pem"
    what = ["-subj", "/CN=models.test", "-addext", "subjectAltName=DNS:models.test", "-days", "2"]
    where = ["-out", str(paths[0]), "-keyout", str(paths[1])]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *what, *where]
    subprocess.run(command, check=True, capture_output=True)
    return paths


def test_a_proxy_of_the_environment_is_asked(call):
    heads, said = call("http://models.test:81/v1", proxy="http_proxy")
    assert heads[0].startswith("POST http://models.test:81/v1/chat/completions HTTP/1.1\r\n")
    assert "host: models.test:81\r\n" in heads[0].lower()
    assert AUTHORIZATION in heads[0].lower()
    assert said == "Hi"


def test_an_https_server_is_spoken_to_through_a_proxy(call, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    heads, said = call("https://models.test/v1", proxy="HTTPS_PROXY", certificate=certificate)
    assert heads[0].startswith("CONNECT models.test:443 HTTP/1.1\r\n")
    assert AUTHORIZATION in heads[0].lower()
    assert heads[1].startswith("POST /v1/chat/completions HTTP/1.1\r\n")
    assert "proxy-authorization" not in heads[1].lower()
    assert said == "Hi"


def test_a_proxy_cannot_stand_in_for_an_https_server(call, certificate):
    heads, problem = call("https://models.test/v1", proxy="HTTPS_PROXY", certificate=certificate)
    assert len(heads) == 1
    assert isinstance(problem, ProviderError)


def test_a_proxy_that_refuses_is_named(call, request):
    heads, problem = call("https://models.test/v1", proxy="HTTPS_PROXY", refusal=REFUSED)
    assert heads[0].startswith("CONNECT models.test:443 HTTP/1.1\r\n")
    assert isinstance(problem, ProviderError)
    if "openai" in request.node.name:  # LiteLLM does not say more than that the connection failed
        assert "opens no way to models.test:443: HTTP/1.1 407 Who are you" in str(problem)


def test_a_server_that_no_proxy_names_is_asked_directly(call, monkeypatch):
    monkeypatch.setenv("NO_PROXY", ".test,127.0.0.1")
    heads, problem = call("http://models.test/v1", proxy="http_proxy")
    assert heads == []
    assert isinstance(problem, ProviderError)


# What only the backend ``openai``, which has a client of its own, does.


@pytest.mark.parametrize("make", ["openai"], indirect=True)
def test_this_machine_is_asked_directly(call):
    heads, said = call("http://127.0.0.1:{port}/v1", proxy="http_proxy")
    assert heads[0].startswith("POST /v1/chat/completions")
    assert said == "Hi"


@pytest.mark.parametrize("answer", ["nonsense", "HTTP/1.1 200 OK\r\n" + "x" * 100_000])
@pytest.mark.parametrize("make", ["openai"], indirect=True)
def test_what_is_no_proxy_is_named(call, answer):
    _, problem = call("https://models.test/v1", proxy="HTTPS_PROXY", refusal=answer)
    assert "does not answer as one" in str(problem)


async def test_a_proxy_of_another_kind_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    backend = OpenAIChatBackend(ModelSpec("m"), base_url="http://models.test/v1")
    with pytest.raises(ConfigError, match=r"socks5://127.0.0.1\) is no http:// proxy; set HTTP_PROXY"):
        await backend.start()
