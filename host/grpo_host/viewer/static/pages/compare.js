// Before and after, or two runs, on the same held-out tasks: the paired difference, and what changed most.
import { html, useState } from "../lib/html.js";
import { path, query, useJson } from "../lib/api.js";
import { fixed, number, percent, plural, signed } from "../lib/format.js";
import { link, replace } from "../lib/route.js";
import { Loaded, Reward } from "../parts/common.js";
import { Conversation } from "../parts/conversation.js";

const SHOWN = 100;

// RUN or RUN:before
const split = (value) => {
  const [, run, at] = /^(.*?)(?::([^:]*))?$/.exec(value ?? "");
  return { run, at: at ?? "" };
};

const Side = ({ name, text, value, runs, set }) => {
  const { run, at } = split(value);
  const join = (next, where) => set(name, next && where ? `${next}:${where}` : next);
  return html`<fieldset class="side"><legend>${text}</legend>
    <label>Run <select value=${run} onChange=${(event) => join(event.target.value, at)}><option value="">choose</option>${runs.map((one) =>
      html`<option value=${one.id} selected=${one.id === run}>${one.name} · ${one.id}</option>`)}</select></label>
    <label>At <input list="places" value=${at} size="10" placeholder="after" onChange=${(event) => join(run, event.target.value.trim())} /></label></fieldset>`;
};

// The share of successes of all tasks on both sides: a reward may rise while it falls.
const Successes = ({ tasks }) => {
  const known = tasks.filter((task) => typeof task.a.success === "number" && typeof task.b.success === "number");
  if (!known.length) return null;
  const [a, b] = ["a", "b"].map((side) => known.reduce((sum, task) => sum + task[side].success, 0) / known.length);
  return html`<p>Success <b>${percent(a)}</b> in A, <b class=${b > a ? "good" : b < a ? "bad" : ""}>${percent(b)}</b> in B</p>`;
};

const Words = ({ difference }) => {
  const { n, low, high } = difference;
  if (!n) return html`<p>No task was played by both.</p>`;
  const clear = low > 0 ? "B has the higher reward" : high < 0 ? "A has the higher reward" : "no clear difference: the interval holds 0";
  return html`<p class="verdict"><b class=${low > 0 ? "good" : high < 0 ? "bad" : ""}>${signed(difference.difference)}</b>
    <span>${signed(low)} to ${signed(high)} on ${plural(n, "task")}: ${clear}</span></p>`;
};

const Transcript = ({ run, side, id, reward }) => {
  const answer = useJson(path("runs", run, "trajectories", id));
  return html`<section class="lane"><h3>${side} · <a href=${link(["run", run, "trajectory", id])}>${id}</a> <${Reward} value=${reward} /></h3>
    <${Loaded} of=${answer}>${(data) => html`<${Conversation} messages=${data.trajectory.messages} turns=${data.trajectory.turns} />`}</></section>`;
};

const Task = ({ task, a, b, open, toggle }) => html`<tbody><tr>
  <th scope="row"><button class="linkish" aria-expanded=${open} onClick=${toggle}>${task.task}</button></th>
  <td><${Reward} value=${task.a?.reward} /></td><td><${Reward} value=${task.b?.reward} /></td>
  <td class=${`number ${task.difference > 0 ? "good" : task.difference < 0 ? "bad" : "dim"}`}>${signed(task.difference)}</td></tr>
  ${open && html`<tr><td colspan="4"><div class="lanes">${task.a && html`<${Transcript} run=${a} side="A" ...${task.a} />`}${task.b && html`<${Transcript} run=${b} side="B" ...${task.b} />`}</div></td></tr>`}</tbody>`;

const Result = ({ data, a, b }) => {
  const [open, setOpen] = useState(null);
  const [all, setAll] = useState(false);
  const tasks = all ? data.tasks : data.tasks.slice(0, SHOWN);
  const better = data.tasks.filter((task) => task.difference > 0).length;
  const worse = data.tasks.filter((task) => task.difference < 0).length;
  return html`<${Words} difference=${data.paired} /><${Successes} tasks=${data.tasks} /><p class="dim">${number(better)} higher in B, ${number(worse)} lower, ${number(data.tasks.length - better - worse)} the same. What changed most stands first; a task’s name opens both transcripts.</p>
    <div class="scroll" tabindex="0" role="region" aria-label="Tasks"><table class="compared narrow">
    <thead><tr><th scope="col">Task</th><th scope="col">A</th><th scope="col">B</th><th scope="col" class="number">B − A</th></tr></thead>
    ${tasks.map((task) => html`<${Task} key=${task.task} task=${task} a=${a} b=${b} open=${open === task.task} toggle=${() => setOpen(open === task.task ? null : task.task)} />`)}</table></div>
    ${!all && data.tasks.length > SHOWN && html`<button onClick=${() => setAll(true)}>Show all ${number(data.tasks.length)} tasks</button>`}`;
};

export const Compare = ({ values }) => {
  const listed = useJson("api/runs");
  const { a, b } = values;
  const answer = useJson(a && b ? "api/compare" + query({ a, b }) : null);
  const set = (name, value) => replace(["compare"], { ...values, [name]: value });
  return html`<h1>Compare</h1><${Loaded} of=${listed}>${({ runs }) => html`<form class="filters" onSubmit=${(event) => event.preventDefault()}>
      <${Side} name="a" text="A" value=${a} runs=${runs} set=${set} /><${Side} name="b" text="B" value=${b} runs=${runs} set=${set} />
      <datalist id="places"><option value="before" /><option value="warm_start" /><option value="after" /></datalist></form>`}</>
    ${a && b ? html`<${Loaded} of=${answer}>${(data) => html`<${Result} data=${data} a=${split(a).run} b=${split(b).run} />`}</>`
      : html`<p>Choose two runs, or the same run before and after. Both must have played the same held-out tasks.</p>`}`;
};
