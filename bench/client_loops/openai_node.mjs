// openai for JavaScript: its own loop, runTools, and the Responses API.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: "none" });
const parameters = { type: "object", properties: { town: { type: "string" } }, required: ["town"] };
const weather = ({ town }) => [...town].reverse().join("");

async function chat(stream) {
  const runner = client.chat.completions.runTools({
    model: "desk",
    stream,
    messages: [{ role: "user", content: "How is the weather?" }],
    tools: [{ type: "function", function: { name: "weather", parameters, parse: JSON.parse, function: weather } }],
  });
  return await runner.finalContent();
}

async function responses() {
  const input = [{ role: "user", content: "How is the weather?" }];
  for (;;) {
    const tools = [{ type: "function", name: "weather", parameters, strict: false }];
    const answer = await client.responses.create({ model: "desk", input, tools });
    input.push(...answer.output);
    const calls = answer.output.filter((item) => item.type === "function_call");
    for (const call of calls) {
      const output = weather(JSON.parse(call.arguments));
      input.push({ type: "function_call_output", call_id: call.call_id, output });
    }
    if (!calls.length) return answer.output_text;
  }
}

console.log(
  JSON.stringify({ chat: await chat(false), "chat, streamed": await chat(true), responses: await responses() }),
);
