// Conversations with the models of `grpo-host serve`: each is kept for the owner of the key.
import { ask, events, getJson } from "./api.js";

// The page lies under /ui of `grpo-host serve`; `grpo-host view` has no models.
export const SERVED = /\/ui\/$/.test(location.pathname);
const ALL = "../api/conversations";
const of = (id) => `${ALL}/${encodeURIComponent(id)}`;

export const models = async () => (await getJson("../v1/models")).data.map((model) => model.id);

const post = (url, body, options = {}) =>
  [url, { ...options, method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }];

// Says something; what is given back has the conversation's id, the tools that ran, and why the answer ended.
export const say = async (message, settings, { signal, onText }) => {
  let text = "";
  let last = {};
  for await (const { data } of events(...post("../api/chat", { message, stream: true, ...settings }, { signal }))) {
    const piece = JSON.parse(data);
    if (piece.error) throw new Error(piece.error.message ?? piece.error);
    if (piece.delta) onText((text += piece.delta));
    last = piece;
  }
  return last;
};

// {history, feedback: {index: {score, correction}}, ...}
export const conversation = async (id) => {
  const [whole, given] = await Promise.all([getJson(of(id)), getJson(`${of(id)}/feedback`)]);
  return { ...whole, feedback: Object.fromEntries(given.feedback.map((one) => [one.message, one])) };
};

export const judge = async (id, given) => (await ask(...post(`${of(id)}/feedback`, given))).json();
export const forget = (id) => ask(of(id), { method: "DELETE" });

// A file for the browser to keep: the key goes in a header, which a plain link cannot send.
export const save = async (format, id) => {
  const query = new URLSearchParams({ format, ...(id ? { conversation_id: id } : {}) });
  const content = await (await ask(`${ALL}/export?${query}`)).blob();
  if (!content.size) throw new Error(`Nothing to export as ${format}: no answer has a good score or a correction yet.`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = `${format}.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
