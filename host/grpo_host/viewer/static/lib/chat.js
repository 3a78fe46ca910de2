// One model of /v1, asked with the whole conversation; its answer comes in pieces.
import { events, getJson } from "./api.js";

// The page lies under /ui of `grpo-host serve`; `grpo-host view` has no models.
export const SERVED = /\/ui\/$/.test(location.pathname);

export const models = async () => (await getJson("../v1/models")).data.map((model) => model.id);

export const answer = async (model, messages, settings, { signal, onText }) => {
  const body = JSON.stringify({ model, messages, stream: true, ...settings });
  const options = { method: "POST", headers: { "content-type": "application/json" }, body, signal };
  const found = { role: "assistant", content: "", tool_runs: [] };
  for await (const { data } of events("../v1/chat/completions", options)) {
    if (data === "[DONE]") break;
    const piece = JSON.parse(data);
    if (piece.error) throw new Error(piece.error.message ?? piece.error);
    const delta = piece.choices?.[0]?.delta ?? {};
    if (delta.content) onText((found.content += delta.content));
    if (delta.tool_runs) found.tool_runs.push(...delta.tool_runs);
    if (piece.choices?.[0]?.finish_reason) found.finish_reason = piece.choices[0].finish_reason;
  }
  return found;
};
