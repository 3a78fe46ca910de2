// One run, or several on the same charts: what is wrong first, then held-out results, then its curves.
import { html, useEffect, useMemo, useState } from "../lib/html.js";
import { path, query, useJson } from "../lib/api.js";
import { chartsOf, short } from "../lib/themes.js";
import { ago, duration, ending, indexed, number } from "../lib/format.js";
import { go, link } from "../lib/route.js";
import { useLive, useMetrics } from "../lib/live.js";
import { Chart } from "../parts/chart.js";
import { Diagnosis } from "../parts/diagnosis.js";
import { Interval, Loaded, Problem, RunTabs, State } from "../parts/common.js";

const heldOut = (about, kind, colour) =>
  (about?.evaluations ?? []).flatMap((found) => {
    const value = kind === "reward" ? found.reward : found.success;
    const [low, high] = kind === "reward" ? [found.low, found.high] : [found.success_low, found.success_high];
    return typeof value === "number" && typeof found.step === "number" ? [{ step: found.step, value, low, high, colour }] : [];
  });

const at = (metrics, name, steps) => {
  const values = metrics.series[name] ?? [];
  const byStep = new Map(metrics.steps.map((step, index) => [step, values[index] ?? null]));
  return steps.map((step) => byStep.get(step) ?? null);
};

// The lines and bands of one chart. Of several runs each has its colour, and each metric its dashes.
const drawn = (chart, runs, steps) => {
  const several = runs.length > 1;
  const lines = runs.flatMap((run, index) => chart.lines.filter((name) => run.metrics.series[name]).map((name, place) => {
    const label = short(name, chart.lines);
    return {
      name, values: at(run.metrics, name, steps), colour: several ? index : place, dash: several ? place : 0,
      label: several ? (chart.lines.length > 1 ? `${run.label}: ${label}` : run.label) : label,
    };
  }));
  const bands = runs.flatMap((run, index) => {
    const first = at(run.metrics, chart.lines[0], steps);
    if (chart.band?.every((name) => run.metrics.series[name])) {
      const [low, high] = chart.band.map((name) => at(run.metrics, name, steps));
      return [{ low, high, colour: several ? index : 0 }];
    }
    if (!run.metrics.series[chart.spread]) return [];
    const spread = at(run.metrics, chart.spread, steps);
    const side = (sign) => first.map((value, place) => (value === null || spread[place] === null ? null : value + sign * spread[place]));
    return [{ low: side(-1), high: side(1), colour: several ? index : 0 }];
  });
  const points = chart.heldOut ? runs.flatMap((run, index) => heldOut(run.about, chart.heldOut, several ? index : 0)) : [];
  return { lines, bands, points };
};

const Charts = ({ runs, marked, run }) => {
  const steps = useMemo(() => {
    const points = runs.flatMap((one) => (one.about?.evaluations ?? []).map((found) => found.step));
    return [...new Set([...runs.flatMap((one) => one.metrics.steps), ...points.filter((step) => typeof step === "number")])].sort((a, b) => a - b);
  }, [runs]);
  const names = [...new Set(runs.flatMap((one) => Object.keys(one.metrics.series).filter((name) => one.metrics.series[name].some((value) => typeof value === "number"))))];
  const charts = useMemo(() => chartsOf(names).map((chart) => ({ ...chart, ...drawn(chart, runs, steps) })), [runs]);
  if (!names.length) return html`<p class="dim">No step has ended yet.</p>`;
  const show = (chart) => html`<${Chart} key=${chart.title} ...${chart} id=${`chart-${chart.lines[0].name}`} steps=${steps}
    marked=${chart.names.some((name) => marked.includes(name))} onStep=${(step) => go(["run", run, "groups"], { step })} />`;
  const idle = (chart) => chart.used && chart.lines.every((line) => line.values.every((value) => !value));
  const wanted = (chart) => (chart.open && !idle(chart)) || chart.names.some((name) => marked.includes(name));
  const [first, other] = [charts.filter(wanted), charts.filter((chart) => !wanted(chart))];
  return html`<section aria-label="Curves"><h2>Curves</h2><div class="charts">${first.map(show)}</div>
    ${other.length > 0 && html`<details><summary>Other metrics (${other.length})</summary><div class="charts">${other.map(show)}</div></details>`}</section>`;
};

const PLACES = { before: "Before", warm_start: "After the warm start", after: "After", evaluation: "Evaluation" };

const Evaluations = ({ run, about }) => {
  const found = about.evaluations ?? [];
  if (!found.length) return null;
  const place = (one) => PLACES[one.label] ?? one.label ?? `step ${one.step}`;
  return html`<section><h2>Held-out</h2><div class="scroll" tabindex="0" role="region" aria-label="Held-out"><table class="narrow">
    <thead><tr><th scope="col">When</th><th scope="col">Reward</th><th scope="col">Success</th><th scope="col" class="number">Episodes</th></tr></thead>
    <tbody>${found.map((one) => html`<tr><th scope="row">${place(one)}<small>${one.split}</small></th>
      <td><${Interval} value=${one.reward} low=${one.low} high=${one.high} /></td>
      <td>${typeof one.success === "number" ? html`<${Interval} value=${one.success} low=${one.success_low} high=${one.success_high} />` : "–"}</td>
      <td class="number">${number(one.episodes)}</td></tr>`)}</tbody></table></div>
    ${found.length > 1 && html`<p><a href=${link(["compare"], { a: `${run}:${found[0].label}`, b: `${run}:${found.at(-1).label}` })}>Compare the first with the last, task by task</a></p>`}</section>`;
};

const Facts = ({ about, live }) => {
  const running = (live.state ?? about.state) === "running";
  const seconds = Object.values(about.report?.seconds ?? {}).reduce((sum, value) => sum + value, 0);
  const facts = {
    Model: about.model ?? about.config?.model, Environment: about.environment ?? about.config?.environment?.name,
    Steps: about.planned_steps ? `${number(live.steps)} of ${number(about.planned_steps)}` : number(live.steps),
    Started: about.started ? ago(about.started) : null, Took: seconds && !running ? duration(seconds) : null,
    Left: !running ? null : typeof about.seconds_left === "number" ? `about ${duration(about.seconds_left)}` : ending(live.steps, about.planned_steps),
    Index: live.index?.state === "indexing" ? indexed(live.index) : null,
  };
  return html`<dl class="facts">${Object.entries(facts).filter(([, value]) => value).map(([name, value]) =>
    html`<div><dt>${name}</dt><dd>${typeof value === "object" ? value.name ?? JSON.stringify(value) : value}</dd></div>`)}</dl>`;
};

const useRun = (id) => {
  const about = useJson(path("runs", id));
  const found = useMetrics(id);
  const live = useLive(id, about.data, found);
  return { id, about: live.about ?? about.data, loading: about, metrics: found.metrics, problem: found.problem, live };
};

// One more run on the charts; a component, so that each may ask for itself.
const Beside = ({ id, tell }) => {
  const found = useRun(id);
  useEffect(() => { if (found.metrics) tell(id, found); }, [found.metrics, found.about]);
  return found.problem ? html`<${Problem} problem=${found.problem} />` : null;
};

export const Run = ({ run, values }) => {
  const own = useRun(run);
  const others = (values.with ?? "").split(",").filter((id) => id && id !== run);
  const [beside, setBeside] = useState({});
  const [marked, setMarked] = useState([]);
  const tell = (id, found) => setBeside((before) => ({ ...before, [id]: found }));
  const runs = useMemo(() => {
    if (!own.metrics) return [];
    const shown = [own, ...others.map((id) => beside[id]).filter(Boolean)];
    const names = new Set(shown.map((one) => one.about?.name));
    return shown.map((one) => ({ ...one, label: names.size === shown.length ? one.about?.name ?? one.id : `${one.about?.name ?? ""} …${one.id.slice(-4)}` }));
  }, [own.metrics, own.about, beside, values.with]);
  const showSeries = (series) => {
    setMarked(series);
    requestAnimationFrame(() => document.querySelector(".chart.marked")?.scrollIntoView({ block: "center" }));
  };
  return html`<${Loaded} of=${own.about ? { data: own.about } : own.loading}>${(about) => html`
    <${RunTabs} run=${run} name=${about.name} current=""><${State} state=${own.live.state ?? about.state} /></>
    <${Facts} about=${about} live=${own.live} />
    ${others.map((id) => html`<${Beside} key=${id} id=${id} tell=${tell} />`)}
    ${others.length > 0 && html`<p class="note">With ${others.map((id, index) => html`${index > 0 && ", "}<a href=${link(["run", id])}>${beside[id]?.about?.name ?? ""} ${id}</a>`)}. ${" "}<a href=${link(["run", run])}>Only this run</a></p>`}
    ${(about.kind !== "evaluation" || about.diagnosis.length > 0) && html`<section><h2>Diagnosis</h2><${Diagnosis} run=${run} found=${about.diagnosis} evaluations=${about.evaluations} steps=${own.live.steps} names=${about.series} show=${showSeries} /></section>`}
    <${Evaluations} run=${run} about=${about} />
    ${own.problem ? html`<${Problem} problem=${own.problem} />` : runs.length ? html`<${Charts} runs=${runs} marked=${marked} run=${run} />` : html`<p class="dim" role="status">Loading …</p>`}`}</>`;
};
