"""Uploads, against a small stand-in for the hub: huggingface_hub itself is the real one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from grpo_host.export.hub import make_repository, upload
from grpo_sdk.errors import RunError

TOKEN = "hf_thisIsAVerySecretToken0123456789"


class Hub(BaseHTTPRequestHandler):
    """Takes repositories and commits; big files by the LFS protocol. Its server holds what it was sent."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hub = self.server
        hub.seen.append((self.path, self.headers.get("Authorization")))
        if hub.failing and re.search(hub.failing, self.path):
            # As an unkind server would: it repeats the request's headers.
            return self.answer({"error": f"refused: {self.headers['Authorization']}"}, 403)
        if self.path == "/api/repos/create":
            hub.created.append(json.loads(body))
            return self.answer({"url": f"{hub.address}/me/desk"})
        if self.path == "/api/validate-yaml":
            return self.answer({"warnings": [], "errors": []})
        if self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = {True: "lfs", False: "regular"}
            return self.answer(
                {
                    "files": [
                        {
                            "path": f["path"],
                            "uploadMode": modes[f["path"].endswith(".safetensors")],
                            "shouldIgnore": False,
                        }
                        for f in files
                    ]
                }
            )
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{hub.address}/store/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                hub.files[value["path"]] = hub.stored[value["oid"]]
        return self.answer({"commitUrl": f"{hub.address}/me/desk/commit/1", "commitOid": "1" * 40})

    def do_PUT(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.stored[hashlib.sha256(body).hexdigest()] = body
        self.answer({})

    def answer(self, value, status=200):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine, which huggingface_hub talks to with a token."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        constants = pytest.importorskip("huggingface_hub.constants")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.seen, server.created, server.files, server.stored, server.failing = [], [], {}, {}, ""
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in speaks LFS alone
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def exported(tmp_path):
    path = tmp_path / "export"
    path.mkdir()
    (path / "README.md").write_text("---\nlibrary_name: transformers\n---\n# desk\n")
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights" * 1000)
    return path


# httpx warns of the way in which huggingface_hub sends a file.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_all_files_of_an_export_reach_the_repository(hub, exported):
    assert make_repository("me/desk") == f"{hub.address}/me/desk"
    upload(exported, "me/desk")
    assert hub.files == {path.name: path.read_bytes() for path in exported.iterdir()}
    assert {token for path, token in hub.seen} == {f"Bearer {TOKEN}"}


def test_a_new_repository_is_private(hub):
    make_repository("me/desk")
    [asked] = hub.created
    assert (asked["name"], asked["organization"]) == ("desk", "me")
    assert asked.get("private") is True or asked.get("visibility") == "private"


def test_a_repository_that_is_refused_is_named_without_the_token(hub, caplog, capfd):
    hub.failing = "create"
    with pytest.raises(RunError, match=r"--push me/desk: the repository cannot be made: .*403") as caught:
        make_repository("me/desk")
    captured = capfd.readouterr()
    for text in (str(caught.value), caplog.text, captured.out, captured.err):
        assert TOKEN not in text
    assert caught.value.__cause__ is None


def test_an_upload_that_fails_says_where_the_export_is_and_how_to_try_again(hub, exported):
    hub.failing = "commit"
    with pytest.raises(RunError) as caught:
        upload(exported, "me/desk")
    said = str(caught.value)
    assert said.startswith(f"--push me/desk: the export is in {exported}, but it could not be sent: ")
    assert said.endswith(f". Try again: hf upload me/desk {exported}")
    assert TOKEN not in said


def test_without_a_token_nothing_is_sent(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(RunError, match=r"there is no token\. Set HF_TOKEN, or log in: hf auth login"):
        make_repository("me/desk")
    assert hub.seen == []


def test_a_name_that_can_be_no_repository_is_said(hub):
    with pytest.raises(RunError, match="--push a/b/c: the repository cannot be made"):
        make_repository("a/b/c")
    assert hub.seen == []
