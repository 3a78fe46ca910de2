"""openai: each of its two protocols, with the messages that it gives put back whole."""

import json
import os

from openai import OpenAI

client = OpenAI(base_url=os.environ["BASE_URL"], api_key="none")
PARAMETERS = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}


def weather(arguments):
    return json.loads(arguments)["town"][::-1]


def chat():
    tool = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
    messages = [{"role": "user", "content": "How is the weather?"}]
    while True:
        answer = client.chat.completions.create(model="desk", messages=messages, tools=[tool])
        message = answer.choices[0].message
        messages.append(message.model_dump())
        for call in message.tool_calls or ():
            content = weather(call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
        if not message.tool_calls:
            return message.content


def chat_streamed():
    tool = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS, "strict": True}}
    messages = [{"role": "user", "content": "How is the weather?"}]
    while True:
        with client.chat.completions.stream(model="desk", messages=messages, tools=[tool]) as stream:
            message = stream.get_final_completion().choices[0].message
        messages.append(message)
        for call in message.tool_calls or ():
            content = weather(call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
        if not message.tool_calls:
            return message.content


def responses():
    tool = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}
    items = [{"role": "user", "content": "How is the weather?"}]
    while True:
        answer = client.responses.create(model="desk", input=items, tools=[tool])
        items += answer.output
        calls = [item for item in answer.output if item.type == "function_call"]
        for call in calls:
            output = {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": weather(call.arguments),
            }
            items.append(output)
        if not calls:
            return answer.output_text


print(json.dumps({"chat": chat(), "chat, streamed": chat_streamed(), "responses": responses()}))
