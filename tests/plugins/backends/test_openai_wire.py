"""What is sent to a server that speaks OpenAI's protocol."""

from __future__ import annotations

import json

from grpo_backends.openai_wire import request_body
from grpo_sdk import Sampling, user


def test_integers_above_64_bits_and_halves_of_characters_arrive_as_they_are() -> None:
    schema = {"type": "function", "function": {"name": "pick", "parameters": {"maximum": 2**70}}}
    body = json.loads(request_body("m", [user("a \ud800 b")], Sampling(), [schema], {}))
    assert body["tools"][0]["function"]["parameters"]["maximum"] == 2**70
    assert body["messages"][0]["content"] == "a \ud800 b"


def test_a_request_without_them_is_the_same_json() -> None:
    body = json.loads(request_body("m", [user("Grüße")], Sampling(stop=("END",), seed=7), [], {"user": "x"}))
    assert (body["messages"], body["stop"], body["seed"], body["user"]) == ([user("Grüße")], ["END"], 7, "x")
