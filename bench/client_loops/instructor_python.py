"""instructor: parallel tools, the mode that forces none; the last turn is a text."""

import json
import os
from collections.abc import Iterable

import instructor
from openai import OpenAI
from pydantic import BaseModel


class Weather(BaseModel):
    """The weather of a town."""

    town: str


plain = OpenAI(base_url=os.environ["BASE_URL"], api_key="none")
client = instructor.from_openai(plain, mode=instructor.Mode.PARALLEL_TOOLS)
messages = [{"role": "user", "content": "How is the weather?"}]
for _ in range(2):
    calls, answer = [], None
    said = client.chat.completions.create(model="desk", messages=messages, response_model=Iterable[Weather])
    calls = list(said)
    for number, call in enumerate(calls):
        id = f"call_{len(messages)}_{number}"
        function = {"name": "Weather", "arguments": call.model_dump_json()}
        messages.append(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": id, "type": "function", "function": function}],
            }
        )
        messages.append({"role": "tool", "tool_call_id": id, "content": call.town[::-1]})
last = client.chat.completions.create(model="desk", messages=messages, response_model=None)
print(json.dumps({"parallel tools": last.choices[0].message.content}))
