// All runs: how each went, and what was set otherwise.
import { html, useState } from "../lib/html.js";
import { useJson } from "../lib/api.js";
import { ago, date, duration, ending, fixed, number, plural, size } from "../lib/format.js";
import { go, link, replace } from "../lib/route.js";
import { Chips, Interval, Loaded, Sparkline, State } from "../parts/common.js";

const SOON = 5000;
const LATER = 30000;

const matches = (run, words) => {
  const text = [run.id, run.name, run.model, run.environment, run.state, JSON.stringify(run.settings)].join(" ").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
};

const ORDERS = {
  started: ["Started", (run) => date(run.started)?.getTime()],
  name: ["Name", (run) => run.name?.toLowerCase()],
  steps: ["Steps", (run) => run.steps],
  after: ["Held-out after", (run) => run.after?.reward],
  size: ["Size", (run) => run.size_bytes],
};

const inOrder = (runs, order) => {
  const down = !order.startsWith("-");
  const key = ORDERS[order.replace("-", "")]?.[1] ?? ORDERS.started[1];
  const sign = down ? 1 : -1;
  return [...runs].sort((a, b) => {
    const [x, y] = [key(a) ?? null, key(b) ?? null];
    if (x === null || y === null) return (x === null) - (y === null);
    return x < y ? sign : x > y ? -sign : 0;
  });
};

// Runs that train change, and others begin: they are asked for again while this page is open.
const again = ({ runs }) => (runs.length && runs.every((run) => run.state !== "running") ? LATER : SOON);

const left = ({ state, seconds_left: seconds, steps, planned_steps: planned }) =>
  state !== "running" ? null : typeof seconds === "number" ? `about ${duration(seconds)} left` : ending(steps, planned);

const Row = ({ run, chosen, choose }) => html`<tr>
  <td class="choose"><input type="checkbox" aria-label=${`Choose ${run.name} ${run.id}`} checked=${chosen} onChange=${choose} /></td>
  <th scope="row" data-label="Run"><a href=${link(["run", run.id])}>${run.name || run.id}</a><small>${run.id}</small></th>
  <td data-label="State"><${State} state=${run.state} /><small>${left(run) ?? ago(run.started)}</small></td>
  <td data-label="Steps" class="number">${number(run.steps)}${run.planned_steps && run.planned_steps !== run.steps ? html`<small>of ${number(run.planned_steps)}</small>` : null}</td>
  <td data-label="Reward"><${Sparkline} values=${run.curve} label="Reward" /></td>
  <td data-label="Held-out before">${run.before ? html`<${Interval} ...${run.before} value=${run.before.reward} />` : html`<span class="dim">–</span>`}</td>
  <td data-label="Held-out after">${run.after ? html`<${Interval} ...${run.after} value=${run.after.reward} />` : html`<span class="dim">–</span>`}
    ${run.warm_start && html`<small title="What imitation alone gave: the control">warm start ${fixed(run.warm_start.reward)}</small>`}</td>
  <td data-label="Set otherwise" class="full"><${Chips} values=${run.settings} /></td>
  <td data-label="Model">${run.model}<small>${run.environment}</small></td>
  <td data-label="Size" class="number nowrap">${size(run.size_bytes)}</td>
</tr>`;

const NUMBERS = ["steps", "size"];

const Heading = ({ name, values }) => {
  const order = values.order ?? "started";
  const [text] = ORDERS[name];
  const now = order === name ? "descending" : order === `-${name}` ? "ascending" : null;
  const next = order === name ? `-${name}` : name;
  return html`<th scope="col" class=${NUMBERS.includes(name) && "number"} aria-sort=${now}><button class="sort" onClick=${() => replace([], { ...values, order: next })}>
    ${text} <span aria-hidden="true">${now === "descending" ? "↓" : now ? "↑" : ""}</span></button></th>`;
};

export const Runs = ({ values }) => {
  const answer = useJson("api/runs", again);
  const [chosen, setChosen] = useState([]);
  const toggle = (id) => setChosen(chosen.includes(id) ? chosen.filter((other) => other !== id) : [...chosen, id]);
  const words = values.q ?? "";
  return html`<h1>Runs</h1><${Loaded} of=${answer}>${({ runs }) => {
    if (!runs.length)
      return html`<p>There is no run here yet. <code>grpo-host run agent.yaml</code> makes one.</p>`;
    const shown = inOrder(runs.filter((run) => matches(run, words)), values.order ?? "started");
    return html`
      <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
        <label>Filter <input type="search" value=${words} placeholder="name, model, state, setting"
          onInput=${(event) => replace([], { ...values, q: event.target.value })} /></label>
        <span class="dim" role="status">${shown.length === runs.length ? plural(runs.length, "run") : `${shown.length} of ${plural(runs.length, "run")}`}</span>
        <span class="actions">
          <button type="button" disabled=${chosen.length < 2} onClick=${() => go(["run", chosen[0]], { with: chosen.slice(1).join(",") })}>Show on one chart</button>
          <button type="button" disabled=${chosen.length !== 2} onClick=${() => go(["compare"], { a: chosen[0], b: chosen[1] })}>Compare two</button>
        </span>
      </form>
      <div class="scroll" tabindex="0" role="region" aria-label="Runs"><table class="cards">
        <thead><tr><td></td><${Heading} name="name" values=${values} /><${Heading} name="started" values=${values} />
          <${Heading} name="steps" values=${values} /><th scope="col">Reward</th><th scope="col">Held-out before</th>
          <${Heading} name="after" values=${values} /><th scope="col">Set otherwise</th><th scope="col">Model</th>
          <${Heading} name="size" values=${values} /></tr></thead>
        <tbody>${shown.map((run) => html`<${Row} key=${run.id} run=${run} chosen=${chosen.includes(run.id)} choose=${() => toggle(run.id)} />`)}</tbody>
      </table></div>`;
  }}</>`;
};
