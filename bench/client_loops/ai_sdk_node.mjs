// The AI SDK: generateText and streamText, through its OpenAI and its OpenAI-compatible provider.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const openai = createOpenAI({ baseURL: process.env.BASE_URL, apiKey: "none" });
const compatible = createOpenAICompatible({ name: "grpo", baseURL: process.env.BASE_URL, apiKey: "none" });
const asked = (model) => ({
  model,
  prompt: "How is the weather?",
  stopWhen: stepCountIs(5),
  tools: {
    weather: tool({
      description: "The weather of a town",
      inputSchema: z.object({ town: z.string() }),
      execute: async ({ town }) => [...town].reverse().join(""),
    }),
  },
});

console.log(
  JSON.stringify({
    chat: (await generateText(asked(openai.chat("desk")))).text,
    "chat, streamed": await streamText(asked(compatible("desk"))).text,
    responses: (await generateText(asked(openai.responses("desk")))).text,
    "responses, streamed": await streamText(asked(openai.responses("desk"))).text,
  }),
);
