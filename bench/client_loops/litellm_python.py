"""LiteLLM: the loop of its documentation, which appends its own messages."""

import json
import os

import litellm

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}


def loop(dump):
    messages = [{"role": "user", "content": "How is the weather?"}]
    while True:
        answer = litellm.completion(
            "openai/desk", messages, tools=[TOOL], api_base=os.environ["BASE_URL"], api_key="none"
        )
        message = answer.choices[0].message
        messages.append(message.model_dump() if dump else message)
        for call in message.tool_calls or ():
            content = json.loads(call.function.arguments)["town"][::-1]
            messages.append(
                {
                    "role": "tool",
                    "tool_call_id": call.id,
                    "name": call.function.name,
                    "content": content,
                }
            )
        if not message.tool_calls:
            return message.content


print(json.dumps({"chat": loop(False), "chat, dumped": loop(True)}))
