"""Check attributes of metrics and events, and bound how many sets of them a metric may have."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

logger = logging.getLogger("grpo_host.telemetry")

Attribute: TypeAlias = str | bool | int | float

MAX_ATTRIBUTES = 64
MAX_KEY = 255
MAX_DEPTH = 8
MAX_TEXT = 16_384
"""Longest text, in characters: events are not for documents, and exporters cut or drop longer texts."""

OVERFLOW: dict[str, Attribute] = {"otel.metric.overflow": True}
"""OpenTelemetry's own mark of the series that stands for all beyond the limit."""


class Series:
    """The attribute sets of one metric, which are bounded: each costs memory here and in every store."""

    def __init__(self, name: str, limit: int) -> None:
        self._name, self._limit = name, limit
        self._known: set[frozenset[tuple[str, Attribute]]] = set()
        self._warned = False

    def admit(self, attributes: dict[str, Attribute]) -> dict[str, Attribute]:
        """``attributes``, or the overflow's if the metric has its full number of sets already."""
        key = frozenset(attributes.items())
        if key in self._known:
            return attributes
        if len(self._known) < self._limit:
            self._known.add(key)
            return attributes
        if not self._warned:
            self._warned = True
            logger.warning(
                'metric "%s" has %d different sets of attributes; more are exported together, as '
                "otel.metric.overflow. Leave out what identifies a person or a request (here: %s)",
                self._name,
                self._limit,
                ", ".join(sorted(attributes)),
            )
        return OVERFLOW


def metric_attributes(name: str, attributes: Mapping[str, Attribute] | None) -> dict[str, Attribute]:
    """A copy with all values checked: texts, booleans and finite numbers."""
    where = f'metric "{name}"'
    checked = _mapping(where, attributes)
    for key, value in checked.items():
        if not isinstance(value, (str, bool, int, float)):
            raise TypeError(
                f'{where}: attribute "{key}" is a text, a boolean or a number, not {type(value).__name__}'
            )
        _check(f'{where}: attribute "{key}"', value, MAX_DEPTH)
    return checked


def event_attributes(name: str, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy with all values checked: what JSON can say, to a depth of ``MAX_DEPTH``."""
    where = f'event "{name}"'
    return {
        key: _check(f'{where}: attribute "{key}"', value, MAX_DEPTH)
        for key, value in _mapping(where, attributes).items()
    }


def _mapping(where: str, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    if attributes is None:
        return {}
    if not isinstance(attributes, Mapping):
        raise TypeError(f"{where}: attributes are a dictionary, not {type(attributes).__name__}")
    if len(attributes) > MAX_ATTRIBUTES:
        raise ValueError(f"{where}: {len(attributes)} attributes; at most {MAX_ATTRIBUTES} are taken")
    for key in attributes:
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY:
            raise ValueError(f"{where}: an attribute's name is a text of 1 to {MAX_KEY} characters: {key!r}")
    return dict(attributes)


def _check(where: str, value: Any, depth: int) -> Any:
    """``value``, copied if it could be changed later."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{where} is {value}, which does not fit into 64 bits")
        return value
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise ValueError(f"{where} has {len(value)} characters; at most {MAX_TEXT} are taken")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which is no finite number")
        return value
    if depth == 0:
        raise ValueError(f"{where} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        return {str(key): _check(f"{where}.{key}", item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_check(f"{where}[{index}]", item, depth - 1) for index, item in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot say")
