"""What is sent to a server that speaks OpenAI's protocol."""

from __future__ import annotations

import json

from grpo_backends.openai_wire import request_body
from grpo_sdk import Sampling, user


def test_integers_above_64_bits_and_halves_of_characters_arrive_as_they_are() -> None:
    parameters = {"maximum": 2**70, "description": "half \ud800 of one"}
    schema = {"type": "function", "function": {"name": "pick", "parameters": parameters}}
    body = json.loads(request_body("m", [user("Hi")], Sampling(), [schema], {}))
    assert ascii(body["tools"]) == ascii([schema])


def test_a_request_without_them_is_the_same_json() -> None:
    body = json.loads(request_body("m", [user("Grüße")], Sampling(stop=("END",), seed=7), [], {"user": "x"}))
    assert (body["messages"], body["stop"], body["seed"], body["user"]) == ([user("Grüße")], ["END"], 7, "x")
