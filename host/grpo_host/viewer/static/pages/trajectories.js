// Search and filter the trajectories of a run. All of it is in the address.
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { getJson, path, query, useJson } from "../lib/api.js";
import { indexed, number, plural, signed } from "../lib/format.js";
import { link, replace } from "../lib/route.js";
import { Loaded, Problem, Reward, RunTabs, Success } from "../parts/common.js";

const AFTER_TYPING = 250;
const ASKED = ["q", "step", "split", "status", "success", "task", "tool_error", "cut", "min_reward", "max_reward", "order"];

const Snippet = ({ snippet }) =>
  html`<span class="snippet">${(snippet ?? []).map(([text, match]) => (match ? html`<mark>${text}</mark>` : text))}</span>`;

const Item = ({ run, item }) => html`<li><a href=${link(["run", run, "trajectory", item.id])}>
  <span class="facts"><${Reward} value=${item.reward} />
    <b class="id">${item.id}</b>
    ${item.status !== "completed" && html`<span class=${item.status === "failed" ? "bad" : "warn"}>${item.status}</span>`}
    ${item.cut > 0 && html`<span class="warn">cut off</span>`}
    <${Success} value=${item.success} />
    ${typeof item.advantage === "number" && html`<span>advantage ${signed(item.advantage)}</span>`}
    <span>${plural(item.turns ?? 0, "turn")}</span><span>${plural(item.tokens ?? 0, "token")}</span>
    ${item.tool_calls > 0 && html`<span>${plural(item.tool_calls, "tool call")}</span>`}
    ${item.tool_errors > 0 && html`<span class="bad">${plural(item.tool_errors, "tool error")}</span>`}</span>
  <${Snippet} snippet=${item.snippet} /></a></li>`;

const Filters = ({ values, set }) => {
  const timer = useRef();
  const typed = (name) => (event) => {
    const { value } = event.target;
    clearTimeout(timer.current);
    timer.current = setTimeout(() => set(name, value), AFTER_TYPING);
  };
  const chosen = (name) => (event) => set(name, event.target.value);
  const select = (name, text, options) => html`<label>${text} <select value=${values[name] ?? ""} onChange=${chosen(name)}>
    ${Object.entries(options).map(([value, shown]) => html`<option value=${value} selected=${value === (values[name] ?? "")}>${shown}</option>`)}</select></label>`;
  const field = (name, text, more) => html`<label>${text} <input value=${values[name] ?? ""} onInput=${typed(name)} ...${more} /></label>`;
  return html`<form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
    ${field("q", "Words", { type: "search", class: "wide", placeholder: "in messages and tool results" })}
    ${field("step", "Step", { size: 8, placeholder: "12, before" })}
    ${field("task", "Task", { size: 10 })}
    ${select("split", "Split", { "": "all", train: "train", held_out: "held-out", validation: "validation" })}
    ${select("status", "Status", { "": "all", completed: "completed", truncated: "truncated", failed: "failed" })}
    ${select("success", "Success", { "": "all", true: "yes", false: "no" })}
    ${select("tool_error", "Tool errors", { "": "all", true: "some", false: "none" })}
    ${select("cut", "Cut off", { "": "all", true: "some", false: "none" })}
    <label>Reward <span class="range"><input aria-label="Reward at least" value=${values.min_reward ?? ""} onInput=${typed("min_reward")} size="4" placeholder="min" />
      <input aria-label="Reward at most" value=${values.max_reward ?? ""} onInput=${typed("max_reward")} size="4" placeholder="max" /></span></label>
    ${select("order", "Order", { "": "newest", oldest: "oldest", "-reward": "highest reward", reward: "lowest reward", "-tokens": "longest", tokens: "shortest", "-turns": "most turns", "-tool_errors": "most tool errors" })}
  </form>`;
};

// The first page of the answer, and those that one asked for after it.
const useFound = (url) => {
  const first = useJson(url);
  const [more, setMore] = useState({ items: [] });
  useEffect(() => setMore({ items: [] }), [url]);
  if (!first.data) return [first];
  const next = more.items.length ? more.next : first.data.next;
  const load = () =>
    getJson(url + (url.includes("?") ? "&" : "?") + new URLSearchParams({ cursor: next })).then(
      (data) => setMore({ items: [...more.items, ...data.trajectories], next: data.next }),
      (problem) => setMore({ ...more, problem }),
    );
  return [{ ...first, data: { ...first.data, trajectories: [...first.data.trajectories, ...more.items], next } }, load, more.problem];
};

const Index = ({ index }) =>
  index?.state === "indexing"
    ? html`<p class="note" role="status">The index is being made: ${indexed(index)}. What is not in it yet is not found.</p>`
    : null;

const AGAIN = 2000;
const making = ({ index }) => index.state === "indexing" && AGAIN;

export const Trajectories = ({ run, values, parts }) => {
  const about = useJson(path("runs", run), making);
  const asked = Object.fromEntries(ASKED.map((name) => [name, values[name]]));
  const [answer, load, problem] = useFound(path("runs", run, "trajectories") + query(asked));
  const set = (name, value) => replace(parts, { ...values, [name]: value });
  return html`<${RunTabs} run=${run} name=${about.data?.name} current="trajectories" />
    <${Index} index=${about.data?.index} />
    <${Filters} values=${values} set=${set} />
    <${Loaded} of=${answer}>${(data) => html`
      <p class="dim" role="status">${data.total === 0 ? "None found." : plural(data.total, "trajectory", "trajectories")}</p>
      <ul class="found">${data.trajectories.map((item) => html`<${Item} key=${item.id} run=${run} item=${item} />`)}</ul>
      ${problem && html`<${Problem} problem=${problem} />`}
      ${data.next && html`<button onClick=${load}>Show more (${number(data.total - data.trajectories.length)} left)</button>`}`}</>`;
};
