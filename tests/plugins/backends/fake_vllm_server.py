"""A fake ``vllm serve``: it speaks the real one's protocol and draws ids from no model.

Run as a program it takes the real one's command line, so that a test can start and kill it as a replica.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VOCABULARY = 64


class FakeVllm(ThreadingHTTPServer):
    """On a free port, in threads; what it was asked is kept."""

    daemon_threads = True

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        name: str = "tiny",
        context: int = 256,
        processed: bool = True,
        lora: bool = True,
        seconds: float = 0.0,
    ) -> None:
        super().__init__((host, port), _Handler)
        self.name = name
        self.context = context
        self.processed = processed
        self.lora = lora
        self.seconds = seconds
        self.adapters: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        """The bodies of the completions that were asked for."""
        self.answers: list[tuple[int, str]] = []
        """Statuses with messages that the next completions are refused with."""
        self.healthy = True
        self.hanging = threading.Event()
        """While it is set, nothing is answered."""
        self.sampling = threading.Event()
        """While it is set, completions are not answered."""
        self.loading = threading.Event()
        """While it is set, no adapter is loaded."""
        self.loads: list[str] = []
        """The adapters that it was asked to load."""
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def address(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_address[1]}"

    def __enter__(self) -> FakeVllm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeVllm

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        fake = self.server
        while fake.hanging.is_set():
            time.sleep(0.01)
        if self.path == "/health":
            self._send(200 if fake.healthy else 503, {})
        elif self.path == "/v1/models":
            cards = [{"id": fake.name, "max_model_len": fake.context, "parent": None}]
            cards += [{"id": name, "max_model_len": None, "parent": fake.name} for name in fake.adapters]
            self._send(200, {"object": "list", "data": cards})
        else:
            self._refuse(404, "Not Found")

    def do_POST(self) -> None:
        fake = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        while fake.hanging.is_set():
            time.sleep(0.01)
        if self.path == "/v1/completions":
            self._complete(body)
        elif not fake.lora:
            self._send(404, {"detail": "Not Found"})
        elif self.path == "/v1/load_lora_adapter":
            self._load(body["lora_name"], body["lora_path"])
        elif fake.adapters.pop(body["lora_name"], None) is None:
            self._refuse(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        else:
            self._send(200, {})

    def _load(self, name: str, path: str) -> None:
        self.server.loads.append(name)
        while self.server.loading.is_set():
            time.sleep(0.01)
        if name in self.server.adapters:
            self._refuse(400, f"The lora adapter '{name}' has already been loaded.")
        elif not (Path(path) / "adapter_config.json").is_file():
            self._refuse(404, f"No adapter found for {path}")
        else:
            self.server.adapters[name] = path
            self._send(200, {})

    def _complete(self, body: dict[str, Any]) -> None:
        fake = self.server
        time.sleep(fake.seconds)
        while fake.sampling.is_set():
            time.sleep(0.01)
        fake.asked.append(body)
        if body["model"] not in {fake.name, *fake.adapters}:
            self._refuse(404, f"The model `{body['model']}` does not exist.")
        elif fake.answers and "allowed_token_ids" not in body:
            self._refuse(*fake.answers.pop(0))
        elif len(body["prompt"]) >= fake.context:
            self._refuse(400, f"This model's maximum context length is {fake.context} tokens.")
        else:
            self._answer(body)

    def _answer(self, body: dict[str, Any]) -> None:
        seed = body.get("seed") if body["temperature"] else 0
        draw = random.Random(None if seed is None else str((seed, body["prompt"])))
        allowed = body.get("allowed_token_ids")
        ids, finish = [], "length"
        while len(ids) < body["max_tokens"]:
            ids.append(draw.choice(allowed or range(VOCABULARY)))
            if ids[-1] in body["stop_token_ids"]:
                finish = "stop"
                break
        alone = allowed and self.server.processed
        logprobs = [0.0 if alone else -1.0 - number / VOCABULARY for number in ids]
        if not body["stream"]:
            self._send(200, {"choices": [_choice(ids, logprobs, finish)]})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for number, logprob in zip(ids, logprobs, strict=True):
            self._event(_choice([number], [logprob], None))
        self._event(_choice([], [], finish))
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, choice: dict[str, Any]) -> None:
        self.wfile.write(b"data: %b\n\n" % json.dumps({"choices": [choice]}).encode())

    def _refuse(self, status: int, message: str) -> None:
        self._send(status, {"error": {"message": message, "type": "BadRequestError", "code": status}})

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _choice(ids: list[int], logprobs: list[float], finish: str | None) -> dict[str, Any]:
    return {"token_ids": ids, "logprobs": {"token_logprobs": logprobs}, "finish_reason": finish}


def main(arguments: list[str]) -> None:
    """Serve as the command line says: what it does not know, it ignores."""
    value = dict(itertools.pairwise(arguments))
    if "--fail" in arguments:
        sys.exit("ValueError: this model is too large")
    sys.stdout.write("a fake vllm serve\n")
    sys.stdout.flush()
    with FakeVllm(
        port=int(value["--port"]),
        name=value["--served-model-name"],
        context=int(value["--max-model-len"]),
        seconds=float(value.get("--seconds", 0)),
    ):
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
