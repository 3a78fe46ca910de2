// Small things that several pages show.
import { html } from "../lib/html.js";
import { keepKey } from "../lib/api.js";
import { SERVED } from "../lib/chat.js";
import { fixed, MISSING, number } from "../lib/format.js";
import { link } from "../lib/route.js";

export const Problem = ({ problem }) => html`<p class="problem" role="alert">${problem.message}</p>
  ${SERVED && [401, 403].includes(problem.status) && html`<${Key} />`}`;

// `grpo-host serve` wants a key: chat for the playground, admin for runs.
const Key = () => {
  const use = (event) => {
    event.preventDefault();
    keepKey(new FormData(event.target).get("key").trim());
    location.reload();
  };
  return html`<form class="filters" onSubmit=${use}><label>Key <input name="key" type="password" autocomplete="off" size="40" placeholder="grpo_…" /></label>
    <button>Use it</button><span class="dim">It is kept in this tab alone. <code>grpo-host keys create</code> prints one; runs need the scope admin, the playground chat.</span></form>`;
};

// The content once it is there; what the server said if it is not.
export const Loaded = ({ of, children }) => {
  if (of.problem) return html`<${Problem} problem=${of.problem} />`;
  if (!of.data) return html`<p class="dim" role="status">${of.busy ?? "Loading …"}</p>`;
  return html`<div class=${of.loading ? "stale" : null} aria-busy=${Boolean(of.loading)}>${children(of.data)}</div>`;
};

const STATES = { running: "●", finished: "✓", stopped: "■", failed: "✕" };
export const State = ({ state }) =>
  html`<span class=${`state ${state}`}><span aria-hidden="true">${STATES[state] ?? "?"}</span> ${state}</span>`;

// A line of numbers without axes.
export const Sparkline = ({ values, label }) => {
  const points = (values ?? []).map((value, index) => [index, value]).filter(([, value]) => typeof value === "number");
  if (points.length < 2) return html`<span class="dim">${MISSING}</span>`;
  const numbers = points.map(([, value]) => value);
  const [low, high, last] = [Math.min(...numbers), Math.max(...numbers), points.at(-1)[0] || 1];
  const at = ([x, y]) => `${(2 + (x / last) * 96).toFixed(1)},${(22 - ((y - low) / (high - low || 1)) * 20).toFixed(1)}`;
  return html`<svg class="spark" viewBox="0 0 100 24" role="img"
    aria-label=${`${label}: from ${number(numbers[0])} to ${number(numbers.at(-1))} over ${points.length} steps`}>
    <polyline points=${points.map(at).join(" ")} />
    <circle cx=${at(points.at(-1)).split(",")[0]} cy=${at(points.at(-1)).split(",")[1]} r="2" /></svg>`;
};

// A mean on a line from 0 to 1 with its interval; what lies outside of 0 to 1 is shown in words only.
export const Interval = ({ value, low, high }) => {
  const inside = [value, low, high].every((x) => typeof x !== "number" || (x >= 0 && x <= 1));
  const at = (x) => (x * 100).toFixed(1);
  if (typeof value !== "number") return html`<span class="dim">${MISSING}</span>`;
  return html`<span class="interval">
    <b>${fixed(value)}</b>${typeof low === "number" && html`<small> ${fixed(low)} to ${fixed(high)}</small>`}
    ${inside && typeof low === "number" && html`<svg viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">
      <rect class="track" width="100" height="6" /><rect class="span" x=${at(low)} width=${at(Math.max(high - low, 0.01))} height="6" />
      <rect class="mean" x=${at(Math.min(value, 0.99))} width="1.5" height="6" /></svg>`}</span>`;
};

export const Reward = ({ value }) => {
  const share = typeof value === "number" ? Math.max(0, Math.min(1, value)) : 0;
  return html`<span class="reward"><svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
    <rect class="track" width="100" height="8" /><rect class="span" width=${share * 100} height="8" /></svg>
    <b>${fixed(value)}</b></span>`;
};

// Above the pages of one run.
export const RunTabs = ({ run, name, current, children }) => {
  const tabs = { "": "Overview", trajectories: "Trajectories", groups: "Groups", settings: "Settings" };
  return html`<div class="head">
    <h1>${name ?? run} ${name && name !== run && html`<small>${run}</small>`}</h1>${children}
    <nav class="tabs" aria-label="This run">${Object.entries(tabs).map(([kind, text]) =>
      html`<a href=${link(["run", run, kind].filter(Boolean))} aria-current=${kind === current ? "page" : null}>${text}</a>`)}</nav>
  </div>`;
};

// The shortest ends of dotted names that tell them apart: learning_rate, warm_start.learning_rate.
const endings = (names) => {
  const split = names.map((name) => name.split("."));
  return split.map((parts) => {
    const taken = (length) => split.filter((other) => other !== parts && other.slice(-length).join(".") === parts.slice(-length).join(".")).length;
    let length = 1;
    while (length < parts.length && taken(length)) length += 1;
    return parts.slice(-length).join(".");
  });
};

const shown = (value) => (value === null ? "none" : typeof value === "object" ? JSON.stringify(value) : number(value, 6));

export const Chips = ({ values }) => {
  const names = Object.keys(values ?? {});
  const short = endings(names);
  return html`<ul class="chips">${names.map((name, index) => html`<li title=${name}><span>${short[index]}</span> ${shown(values[name])}</li>`)}</ul>`;
};

export const Success = ({ value }) =>
  value === true ? html`<span class="good">success</span>` : value === false ? html`<span class="bad">no success</span>` : null;

export const Copy = ({ text, children }) =>
  html`<button class="small" onClick=${(event) => {
    const button = event.currentTarget;
    navigator.clipboard.writeText(text).then(() => {
      button.dataset.done = "copied";
      setTimeout(() => delete button.dataset.done, 1500);
    });
  }}>${children}</button>`;
