"""The process in which a bridged library runs; started by its path, in any interpreter, never imported.

    python worker.py SIDE.py SOCKET OPTIONS

loads ``Side`` from SIDE.py, makes ``Side(**OPTIONS)``, and answers at the unix socket SOCKET. Each connection
is an episode: it gets a fork of this process, so the library is loaded once, and what an episode does to it
(its state, a call that never ends, a crash) touches no other. A line is a request, ``{"method": ...,
"arguments": {...}, "seconds": ...}``, and its answer, ``{"result": ...}`` or ``{"error": ...}``. A request
that takes longer than its seconds ends its fork. All ends when standard input does: with whoever started it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
import select
import signal
import socketserver
import sys
import traceback
from pathlib import Path
from typing import Any


class Connection(socketserver.StreamRequestHandler):
    """One episode, in a fork."""

    side: Any

    def handle(self) -> None:
        os.close(0)  # the end of the parent's input is the parent's to see
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        for line in self.rfile:
            request = json.loads(line)
            # The default action of SIGALRM ends this process, whatever it does, in C too.
            signal.setitimer(signal.ITIMER_REAL, request["seconds"])
            answer = self.answer(loop, request)
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.wfile.write(answer + b"\n")

    def answer(self, loop: asyncio.AbstractEventLoop, request: dict[str, Any]) -> bytes:
        try:
            result = getattr(self.side, request["method"])(**request["arguments"])
            if inspect.isawaitable(result):
                result = loop.run_until_complete(result)
            return json.dumps({"result": result}).encode()
        except BaseException as problem:
            said = f"{type(problem).__name__}: {problem}"
            where = traceback.extract_tb(problem.__traceback__)[-1]
            return json.dumps({"error": f"{said} ({where.filename}:{where.lineno})"}).encode()


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Forks for each connection, until standard input ends."""

    max_children = 4096
    request_queue_size = 256

    def service_actions(self) -> None:
        super().service_actions()
        if select.select([0], [], [], 0)[0] and not os.read(0, 1):
            os.killpg(0, signal.SIGKILL)  # a group of its own: see process.py

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], BrokenPipeError | ConnectionResetError):
            traceback.print_exc()


def main() -> None:
    file, address, options = sys.argv[1:]
    sys.path[:] = [entry for entry in sys.path if entry != str(Path(__file__).parent)]
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    Connection.side = module.Side(**json.loads(options))
    # Under its name once it listens: whoever sees it connects at once.
    new = Path(f"{address}.new")
    new.unlink(missing_ok=True)
    with Server(str(new), Connection) as server:
        new.rename(address)
        server.serve_forever(poll_interval=0.2)


if __name__ == "__main__":
    main()
