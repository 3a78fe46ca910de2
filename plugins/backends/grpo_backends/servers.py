"""Servers of a model: where they are, and whether they are set up as training needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from grpo_backends import vllm_wire as wire
from grpo_backends.errors import PassingError
from grpo_backends.replica_pool import Replica
from grpo_backends.replica_process import ReplicaProcess
from grpo_sdk import ConfigError, Sampling

CONTROL_SECONDS = 20.0
"""For a replica's health; it loads an adapter in less, too."""


def make_replica(
    address: str, api_key: str | None, *, timeout: float, process: ReplicaProcess | None = None
) -> Replica:
    """The server at ``address``, which is not asked yet. Raises ``ConfigError`` if that is no address."""
    from grpo_backends.keepalive import KeepAliveClient

    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        answers = KeepAliveClient(address, headers=headers, timeout=timeout, max_connections=4096)
        control = KeepAliveClient(address, headers=headers, timeout=CONTROL_SECONDS)
    except ValueError as problem:
        raise ConfigError(f"backend vllm_server: servers: {problem}") from problem
    return Replica(address, answers, control, process)


async def addresses_of(servers: Sequence[str]) -> list[str]:
    """Of ``servers``, each address that the name of a host stands for. Raises ``ConfigError``."""
    found: dict[str, None] = {}
    for server in servers:
        url = urlsplit(server)
        host = url.hostname or ""
        if url.scheme != "http" or not host or host == "localhost" or _is_address(host):
            found[server.rstrip("/")] = None
            continue
        port = url.port or 80
        try:
            infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)
        except OSError as problem:
            raise ConfigError(
                f"backend vllm_server: servers: {server}: {problem}. Check the name, and that one is ready"
            ) from problem
        for address in sorted({str(info[4][0]) for info in infos}):
            shown = f"[{address}]" if ":" in address else address
            found[f"http://{shown}:{port}{url.path.rstrip('/')}"] = None
    return list(found)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def check_server(replica: Replica, name: str, context: int) -> str:
    """What ``replica`` calls the model: ``name``, if it has it.

    Raises ``ConfigError`` if the log-probs of ``replica`` are not of what it samples from, or if its context
    is shorter than ``context``.
    """
    listed = await replica.control.get("/v1/models")
    if listed.status in (401, 403):
        raise ConfigError(f"{replica.address}: status {listed.status}. Check options.api_key")
    models = wire.models(listed.body, replica.address)
    if name not in models:
        name = next(iter(models))
    length = models[name]
    if length is not None and length < context:
        raise ConfigError(
            f"{replica.address}: the server's context has {length} tokens, and model.context says {context}. "
            f"Start it with --max-model-len {context}, or lower model.context"
        )
    response = await replica.client.post(wire.PATH, wire.probe_body(name))
    if response.status >= 500:
        raise PassingError(f"{replica.address}: status {response.status}: {wire.said(response.body)}")
    if response.status != 200:
        raise wire.refusal(response.status, response.body, replica.address, Sampling())
    if wire.reply(response.body, replica.address, 0).logprobs[0] < -1e-3:
        raise ConfigError(
            f"{replica.address}: the server reports the log-probs of the model, not of what it samples from. "
            "Start it with --logprobs-mode processed_logprobs"
        )
    return name
