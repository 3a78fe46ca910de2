// LangChain for JavaScript: a chat model with tools.
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { z } from "zod";

const weather = tool(async ({ town }) => [...town].reverse().join(""), {
  name: "weather",
  description: "The weather of a town",
  schema: z.object({ town: z.string() }),
});

async function streamed(model, messages) {
  let whole;
  for await (const chunk of await model.stream(messages)) whole = whole ? whole.concat(chunk) : chunk;
  return whole;
}

async function loop(options, stream = false) {
  const configuration = { baseURL: process.env.BASE_URL };
  const model = new ChatOpenAI({ model: "desk", apiKey: "none", configuration, ...options }).bindTools([weather]);
  const messages = [new HumanMessage("How is the weather?")];
  for (;;) {
    const answer = stream ? await streamed(model, messages) : await model.invoke(messages);
    messages.push(answer);
    for (const call of answer.tool_calls ?? []) {
      messages.push(new ToolMessage({ content: await weather.invoke(call.args), tool_call_id: call.id }));
    }
    if (!answer.tool_calls?.length) return answer.text;
  }
}

console.log(
  JSON.stringify({
    chat: await loop({}),
    "chat, streamed": await loop({}, true),
    responses: await loop({ useResponsesApi: true }),
  }),
);
