// Search and filter the trajectories of a run. All of it is in the address.
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { getJson, path, query, useJson } from "../lib/api.js";
import { indexed, number, plural, signed } from "../lib/format.js";
import { link, replace } from "../lib/route.js";
import { Loaded, Problem, Reward, RunTabs, Success } from "../parts/common.js";

const AFTER_TYPING = 250;
const AGAIN = 2000;
const LATER = 10000;
const ASKED = ["q", "step", "split", "status", "success", "task", "tool_error", "cut", "scored", "min_reward", "max_reward", "order"];

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

// What one types is the field's until one pauses: whatever else is drawn meanwhile must not take letters back.
const Typed = ({ name, value, set, ...more }) => {
  const [typed, setTyped] = useState(null);
  useEffect(() => {
    if (typed === null) return undefined;
    const timer = setTimeout(() => { set(name, typed); setTyped(null); }, AFTER_TYPING);
    return () => clearTimeout(timer);
  }, [typed]);
  return html`<input value=${typed ?? value ?? ""} onInput=${(event) => setTyped(event.target.value)} ...${more} />`;
};

const Filters = ({ values, set }) => {
  const typed = (name, more) => html`<${Typed} name=${name} value=${values[name]} set=${set} ...${more} />`;
  const chosen = (name) => (event) => set(name, event.target.value);
  const select = (name, text, options) => html`<label>${text} <select value=${values[name] ?? ""} onChange=${chosen(name)}>
    ${Object.entries(options).map(([value, shown]) => html`<option value=${value} selected=${value === (values[name] ?? "")}>${shown}</option>`)}</select></label>`;
  const field = (name, text, more) => html`<label>${text} ${typed(name, more)}</label>`;
  return html`<form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
    ${field("q", "Words", { type: "search", class: "wide", placeholder: "in messages and tool results" })}
    ${field("step", "Step", { size: 8, placeholder: "12, before" })}
    ${field("task", "Task", { size: 10 })}
    ${select("split", "Split", { "": "all", train: "train", held_out: "held-out", validation: "validation" })}
    ${select("status", "Status", { "": "all", completed: "completed", truncated: "truncated", failed: "failed" })}
    ${select("success", "Success", { "": "all", true: "yes", false: "no" })}
    ${select("tool_error", "Tool errors", { "": "all", true: "some", false: "none" })}
    ${select("cut", "Cut off", { "": "all", true: "some", false: "none" })}
    ${select("scored", "Scored", { "": "all", true: "yes", false: "no reward" })}
    <label>Reward <span class="range">${typed("min_reward", { "aria-label": "Reward at least", size: 4, placeholder: "min" })}
      ${typed("max_reward", { "aria-label": "Reward at most", size: 4, placeholder: "max" })}</span></label>
    ${select("order", "Order", { "": "newest", oldest: "oldest", "-reward": "highest reward", reward: "lowest reward", "-tokens": "longest", tokens: "shortest", "-turns": "most turns", "-tool_errors": "most tool errors" })}
  </form>`;
};

// The first page of the answer, and those that one asked for after it.
const useFound = (url) => {
  const [round, setRound] = useState(0);
  const first = useJson(url, null, round);
  const [more, setMore] = useState({ items: [] });
  useEffect(() => setMore({ items: [] }), [url, round]);
  const anew = () => setRound(round + 1);
  if (!first.data) return { answer: first, anew };
  const next = more.items.length ? more.next : first.data.next;
  const load = () =>
    getJson(url + (url.includes("?") ? "&" : "?") + new URLSearchParams({ cursor: next })).then(
      (data) => setMore({ items: [...more.items, ...data.trajectories], next: data.next }),
      (problem) => setMore({ ...more, problem }),
    );
  const data = { ...first.data, trajectories: [...first.data.trajectories, ...more.items], next };
  return { answer: { ...first, data }, anew, load, problem: more.problem };
};

// How many there are by now, while the run grows: what one reads stays where it is until one asks for them.
const useNewer = (url, grows, total) => {
  const [now, setNow] = useState({});
  useEffect(() => {
    if (!grows) return undefined;
    const abort = new AbortController();
    const count = () => getJson(url, { signal: abort.signal }).then(({ total }) => setNow({ url, total }), () => {});
    const timer = setInterval(count, AGAIN);
    count();
    return () => { clearInterval(timer); abort.abort(); };
  }, [url, grows]);
  return now.url === url ? Math.max(0, now.total - total) : 0;
};

const Index = ({ index }) =>
  index?.state === "indexing"
    ? html`<p class="note" role="status">The index is being made: ${indexed(index)}. What is not in it yet is not found.</p>`
    : null;

const makes = (about) => about?.index.state === "indexing";
const grows = (about) => about?.state === "running" || makes(about);
const again = (about) => (makes(about) ? AGAIN : grows(about) && LATER);

export const Trajectories = ({ run, values, parts }) => {
  const about = useJson(path("runs", run), again);
  const asked = Object.fromEntries(ASKED.map((name) => [name, values[name]]));
  const found = path("runs", run, "trajectories");
  const { answer, anew, load, problem } = useFound(found + query(asked));
  const newer = useNewer(found + query({ ...asked, limit: 1 }), grows(about.data), answer.data?.total ?? Infinity);
  const latest = useRef();
  latest.current = values; // two fields that are typed one right after the other are both kept
  const set = (name, value) => replace(parts, { ...latest.current, [name]: value });
  return html`<${RunTabs} run=${run} name=${about.data?.name} current="trajectories" />
    <${Index} index=${about.data?.index} />
    <${Filters} values=${values} set=${set} />
    <${Loaded} of=${answer}>${(data) => html`
      <p class="dim" role="status">${data.total === 0 ? "None found." : plural(data.total, "trajectory", "trajectories")}
        ${newer > 0 && html`<button class="linkish" onClick=${anew}>${number(newer)} more by now: show</button>`}</p>
      <ul class="found">${data.trajectories.map((item) => html`<${Item} key=${item.id} run=${run} item=${item} />`)}</ul>
      ${problem && html`<${Problem} problem=${problem} />`}
      ${data.next && html`<button onClick=${load}>Show more (${number(data.total - data.trajectories.length)} left)</button>`}`}</>`;
};
