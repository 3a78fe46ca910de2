// What a run's numbers say is wrong, since when, what to do, and where to see it.
import { html } from "../lib/html.js";
import { link } from "../lib/route.js";

const SIGNS = { error: "✕", warning: "!", info: "i" };
const ORDER = ["error", "warning", "info"];

// The trajectories that show a fault best, by its rule.
const SHOWN_BY = {
  cut: ["replies that were cut", { cut: "true" }],
  length: ["the shortest", { order: "tokens" }],
  growth: ["the longest", { order: "-tokens" }],
  repetition: ["the longest", { order: "-tokens" }],
  tool_errors: ["those with a failed tool call", { tool_error: "true" }],
  tool_use: ["its trajectories", {}],
  failed: ["those that failed", { status: "failed" }],
  reward_errors: ["those without a reward", { scored: "false" }],
  ended: ["the last trajectories", { step: null }],
  reward_fall: ["the lowest rewards", { order: "reward" }],
  hollow_reward: ["the highest rewards without success", { success: "false", order: "-reward" }],
};
// Rules about two measurements: before and after the training, or the best and the last.
const BEFORE_AND_AFTER = ["no_gain", "hollow_gain"];
const MEASURED = [...BEFORE_AND_AFTER, "over_optimised", "worse"];

// Rules about the rewards that the one reward is made of.
const OF_PARTS = ["dominates", "easy_part"];
const isPart = (name) => /^rewards\/.*\/mean$/.test(name);

const measuredAt = (evaluations, step) => evaluations.find((one) => one.step === step)?.label;

// Two measurements task by task, or the trajectories of the step at which a fault was certain, and the groups
// of the one where it began.
const Shown = ({ run, item, evaluations }) => {
  if (MEASURED.includes(item.rule)) {
    const whole = BEFORE_AND_AFTER.includes(item.rule);
    const first = whole ? "before" : measuredAt(evaluations, item.step);
    const last = whole ? "after" : measuredAt(evaluations, item.noticed);
    return first && last ? html`<a href=${link(["compare"], { a: `${run}:${first}`, b: `${run}:${last}` })}>${first} and ${last}, task by task</a>` : null;
  }
  const [text, values] = SHOWN_BY[item.rule] ?? [];
  return html`${text && html`<a href=${link(["run", run, "trajectories"], { step: item.noticed, ...values })}>${text}</a>`}
    ${item.step > 0 && html`<a href=${link(["run", run, "groups"], { step: item.step })}>groups of step ${item.step}</a>`}`;
};

const said = (item) => {
  if (item.rule === "ended" || MEASURED.includes(item.rule)) return item.text[0].toUpperCase() + item.text.slice(1);
  return `${item.noticed > item.step ? "Since step" : "Step"} ${item.step}: ${item.text}`;
};

// Most rules ask for so many steps in a row.
const STEPS = 3;

const Series = ({ item, names, show }) => {
  const parts = OF_PARTS.includes(item.rule) ? (names ?? []).filter(isPart) : [];
  const series = parts.length ? parts : item.series ?? [];
  return series.length > 0 && html`<button class="linkish" onClick=${() => show(series)}>show ${parts.length ? "each reward" : series.join(", ")}</button>`;
};

export const Diagnosis = ({ run, found, evaluations, steps, names, show }) => {
  const ordered = [...(found ?? [])].sort((a, b) => ORDER.indexOf(a.severity) - ORDER.indexOf(b.severity));
  if (!ordered.length && steps < STEPS) return html`<p class="note">Nothing yet: most rules look at ${STEPS} steps in a row.</p>`;
  if (!ordered.length) return html`<p class="note"><span class="good" aria-hidden="true">✓</span> No rule found a fault in the numbers of this run.</p>`;
  return html`<ul class="diagnosis">${ordered.map((item) => html`<li class=${item.severity}>
    <span class="sign" aria-hidden="true">${SIGNS[item.severity]}</span>
    <div><p><span class="unseen">${item.severity}: </span><b>${said(item)}</b></p>
      ${item.advice && html`<p>${item.advice}.</p>`}
      <p class="links"><${Shown} run=${run} item=${item} evaluations=${evaluations ?? []} />
      <${Series} item=${item} names=${names} show=${show} />
      <code>${item.rule}</code></p></div></li>`)}</ul>`;
};
