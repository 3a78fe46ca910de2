from __future__ import annotations

import logging

import pytest

from grpo_host.serving.logs import RedactingFormatter


@pytest.mark.parametrize(
    ("told", "logged"),
    [
        (
            '127.0.0.1:1 - "WebSocket /ws?password=hunter2&a=b" [accepted]',
            '127.0.0.1:1 - "WebSocket /ws" [accepted]',
        ),
        ('127.0.0.1:1 - "WebSocket /ws" 403', '127.0.0.1:1 - "WebSocket /ws" 403'),
        (f"no key grpo_{'0' * 16}_{'A' * 43}, why?", "no key grpo_***, why?"),
    ],
)
def test_a_log_holds_neither_keys_nor_queries(told, logged):
    record = logging.LogRecord("uvicorn.error", logging.INFO, __file__, 1, told, None, None)
    assert RedactingFormatter("%(message)s").format(record) == logged
