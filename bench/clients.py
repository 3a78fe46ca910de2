"""Whether other people's clients can work with the server: ``python -m bench.clients [--json]``.

Each library runs its own tool loop of three turns over HTTP against a served scripted backend
(bench/client_loops/server.py). It is installed, in the versions below, into an environment of its own in a
cache directory. One that cannot be installed is a row without a figure, and a note says why.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.report import ROOT, Report, Row, Target, publish
from bench.serving import running

LOOPS = ROOT / "bench" / "client_loops"
CACHE = Path.home() / ".cache" / "grpo-agent-framework" / "bench" / "clients"
SAID = ("nnoB", "leiK")
"""What the callers' tool says; an answer has it if every turn went through."""
INSTALL_SECONDS = 900
LOOP_SECONDS = 180


class NotInstalledError(Exception):
    """A library is not to be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Client:
    """A library, and the file that has its loops."""

    name: str
    script: str
    packages: tuple[str, ...]

    def command(self) -> list[str]:
        """What runs its loops, in an environment that is made at the first call."""
        key = hashlib.sha256(" ".join(self.packages).encode()).hexdigest()[:8]
        home = CACHE / f"{Path(self.script).stem}-{key}"
        done = home / "installed"
        if not done.exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            print(f"installing {self.name} into {home} …", file=sys.stderr, flush=True)
            self._install(home)
            done.touch()
        if self.script.endswith(".py"):
            return [str(home / "venv" / "bin" / "python"), str(LOOPS / self.script)]
        shutil.copy(LOOPS / self.script, home)  # modules are looked for beside the script
        return ["node", str(home / self.script)]

    def _install(self, home: Path) -> None:
        if self.script.endswith(".py"):
            _run([sys.executable, "-m", "venv", str(home / "venv")])
            _run([str(home / "venv" / "bin" / "pip"), "install", "-q", *self.packages])
            return
        if not (shutil.which("node") and shutil.which("npm")):
            raise NotInstalledError("there is no node or npm on this machine")
        _run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(home), *self.packages])


CLIENTS = (
    Client("openai for Python", "openai_python.py", ("openai==3.57.0",)),
    Client("LiteLLM", "litellm_python.py", ("litellm==1.110.2",)),
    Client("llm", "llm_python.py", ("llm==0.36",)),
    Client("openai-agents", "openai_agents_python.py", ("openai-agents==0.24.0",)),
    Client("pydantic-ai", "pydantic_ai_python.py", ("pydantic-ai-slim[openai]==2.68.0",)),
    Client("smolagents", "smolagents_python.py", ("smolagents[openai]==1.26.0",)),
    Client("instructor", "instructor_python.py", ("instructor==1.17.0",)),
    Client("LangChain", "langchain_python.py", ("langchain==1.5.2", "langchain-openai==1.7.4")),
    Client("openai for JavaScript", "openai_node.mjs", ("openai@6.49.0",)),
    Client(
        "the AI SDK",
        "ai_sdk_node.mjs",
        ("ai@6.0.326", "@ai-sdk/openai@3.0.141", "@ai-sdk/openai-compatible@2.0.92", "zod@4.6.7"),
    ),
    Client(
        "LangChain for JavaScript",
        "langchain_node.mjs",
        ("@langchain/core@1.4.0", "@langchain/openai@1.5.8", "zod@4.6.7"),
    ),
)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(
            command, check=True, timeout=INSTALL_SECONDS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except subprocess.CalledProcessError as problem:
        lines = problem.stdout.decode(errors="replace").strip().splitlines() or ["no word"]
        raise NotInstalledError(lines[-1][:300]) from None
    except subprocess.TimeoutExpired:
        raise NotInstalledError(f"not installed within {INSTALL_SECONDS} s") from None


def loops_of(client: Client, url: str) -> tuple[dict[str, bool], str]:
    """Each loop of ``client`` and whether it ended as it should; what was said where one did not."""
    environment = {**os.environ, "BASE_URL": url, "OPENAI_API_KEY": "none"}
    environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONWARNINGS": "ignore"}
    for name in ("PYTHONPATH", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        environment.pop(name, None)
    try:
        done = subprocess.run(
            client.command(),
            env=environment,
            capture_output=True,
            text=True,
            timeout=LOOP_SECONDS,
            check=True,
        )
        answers = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.CalledProcessError as problem:
        return {"all": False}, (problem.stderr.strip() or "no word")[-500:]
    except (subprocess.TimeoutExpired, ValueError, IndexError) as problem:
        return {"all": False}, str(problem)[:500]
    wrong = {name: said for name, said in answers.items() if not all(word in str(said) for word in SAID)}
    return {name: name not in wrong for name in answers}, f"answered {wrong}" if wrong else ""


def measure(clients: tuple[Client, ...] = CLIENTS) -> Report:
    """Every client at one server."""
    rows, notes = [], []
    with tempfile.TemporaryDirectory() as directory:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = [sys.executable, str(LOOPS / "server.py"), str(port), directory]
        ready = f"http://127.0.0.1:{port}/health/ready"
        with running(server, ready, directory):
            for client in clients:
                try:
                    loops, problem = loops_of(client, f"http://127.0.0.1:{port}/v1")
                except NotInstalledError as reason:
                    rows.append(Row(f"{client.name}: SKIPPED", 0, "loops"))
                    notes.append(f"{client.name} was skipped: it cannot be installed here: {reason}")
                    continue
                if problem:
                    notes.append(f"{client.name}: {problem}")
                label = f"{client.name} ({', '.join(client.packages)}): {'; '.join(loops)}"
                ended = sum(loops.values())
                rows.append(Row(label, ended, f"of {len(loops)} loops", target=Target("≥", len(loops))))
    return Report(
        "Clients",
        "Tool loops of three turns that each library's own code runs against our server on a scripted backend, "
        "over HTTP, without forced tools or schemas. A loop counts if the last answer holds what the caller's "
        "tool said in both turns before.",
        rows,
        notes,
    )


if __name__ == "__main__":
    publish(measure())
