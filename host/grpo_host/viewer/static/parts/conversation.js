// A conversation as a person reads it. All text is text: nothing of it becomes markup.
import { html } from "../lib/html.js";
import { duration, plural, pretty } from "../lib/format.js";

export const NAMES = { system: "System", user: "User", assistant: "Assistant", tool: "Tool" };
const LONG = 1500;

export const words = (content) => {
  if (typeof content === "string") return content;
  if (Array.isArray(content)) return content.map((part) => part.text ?? JSON.stringify(part)).join("\n");
  return content ? JSON.stringify(content) : "";
};

const oneLine = (text, length = 90) => {
  const flat = text.replace(/\s+/g, " ").trim();
  return flat.length > length ? flat.slice(0, length) + " …" : flat;
};

export const Long = ({ text, most = LONG }) =>
  text.length <= most ? html`<div class="said">${text}</div>`
    : html`<details class="long"><summary><span class="said">${text.slice(0, most)} …</span> <b>Show all ${text.length.toLocaleString("en")} characters</b></summary><div class="said">${text}</div></details>`;

const callText = (call) => {
  const { name, arguments: given } = call.function ?? call;
  return { name, given: typeof given === "string" ? given : JSON.stringify(given) };
};

// A call and its result, folded: a line that says which tool, with what, and whether it failed.
const Call = ({ call, result, ran, open }) => {
  const { name, given } = callText(call);
  const answer = result && words(result.content);
  return html`<details class=${`call${ran?.error ? " failed" : ""}`} open=${open}>
    <summary><b>${name}</b><code>${oneLine(given ?? "", 60)}</code>
      ${answer !== undefined && answer !== null && html`<span class="dim">→ ${oneLine(answer, 60)}</span>`}
      ${ran?.error && html`<span class="bad">failed</span>`}${ran?.truncated && html`<span class="warn">cut to its limit</span>`}
      ${ran && html`<span class="dim">${duration(ran.seconds)}</span>`}</summary>
    <h4>Arguments</h4><pre tabindex="0">${pretty(given ?? "")}</pre>
    ${ran?.error && html`<h4>Error</h4><pre class="bad" tabindex="0">${ran.error}</pre>`}
    ${result ? html`<h4>Result</h4><pre tabindex="0">${pretty(answer)}</pre>` : html`<p class="dim">No result was recorded.</p>`}</details>`;
};

const Turn = ({ turn }) =>
  html`<span class="turn dim">${plural(turn.completion_tokens, "token")} in ${duration(turn.seconds)}${turn.finish_reason === "length" ? html`, <b class="warn">cut off</b>` : ""}</span>`;

// Each message with its turn and the results of its calls, which stand below the calls and not by themselves.
const laidOut = (messages, turns, ran) => {
  const runs = ran ?? new Map(turns.flatMap((turn) => (turn.tools ?? []).map((run) => [run.call_id, run])));
  const results = new Map();
  const calls = new Set(messages.flatMap((message) => (message.tool_calls ?? []).map((call) => call.id)));
  for (const message of messages)
    if (message.role === "tool" && calls.has(message.tool_call_id)) results.set(message.tool_call_id, message);
  let turn = 0;
  return messages.flatMap((message, index) => {
    if (message.role === "tool" && results.get(message.tool_call_id) === message) return [];
    return [{ message, index, turn: message.role === "assistant" ? turns[turn++] : null, runs, results }];
  });
};

const Message = ({ item, openCalls, after }) => {
  const { message, index, turn, runs, results } = item;
  const text = words(message.content);
  const kind = NAMES[message.role] ? message.role : "other";
  return html`<li class=${`message ${kind}`}>
    <h3>${NAMES[message.role] ?? message.role}${message.name ? ` · ${message.name}` : ""} ${turn && html`<${Turn} turn=${turn} />`}</h3>
    ${message.reasoning_content && html`<details class="reasoning"><summary>Reasoning</summary><div class="said">${message.reasoning_content}</div></details>`}
    ${text && (message.role === "tool" ? html`<pre tabindex="0">${pretty(text)}</pre>` : html`<${Long} text=${text} />`)}
    ${(message.tool_calls ?? []).map((call) => html`<${Call} call=${call} result=${results.get(call.id)} ran=${runs.get(call.id)} open=${openCalls} />`)}
    ${!text && !message.tool_calls?.length && html`<p class="dim">(nothing)</p>`}
    ${after?.(message, index)}</li>`;
};

// `ran`: what is known of calls by their ids, without turns; `after`: what stands below a message.
export const Conversation = ({ messages, turns = [], ran, openCalls = false, from = 0, after }) =>
  html`<ol class="conversation">${laidOut(messages, turns, ran).filter((item) => item.index >= from).map((item) =>
    html`<${Message} key=${item.index} item=${item} openCalls=${openCalls} after=${after} />`)}</ol>`;
