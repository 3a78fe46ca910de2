// A run's metrics, and what comes while it trains.
import { events, getJson, path, query } from "./api.js";
import { useEffect, useRef, useState } from "./html.js";

const AGAIN = 3000;

// New rows behind those there are; a step that came twice (a run that was resumed) has its later row.
export const joined = (before, rows) => {
  if (!before) return rows;
  const first = rows.steps[0] ?? Infinity;
  const kept = before.steps.findIndex((step) => step >= first);
  const length = kept < 0 ? before.steps.length : kept;
  const names = new Set([...Object.keys(before.series), ...Object.keys(rows.series)]);
  const none = (count) => Array(count).fill(null);
  const series = {};
  for (const name of names)
    series[name] = [...(before.series[name]?.slice(0, length) ?? none(length)), ...(rows.series[name] ?? none(rows.steps.length))];
  return { steps: [...before.steps.slice(0, length), ...rows.steps], series };
};

// The rows behind a step: they came while all were asked for.
const behind = ({ steps, series }, step) => {
  const from = steps.findIndex((one) => one > step);
  const rest = (values) => (from < 0 ? [] : values.slice(from));
  return { steps: rest(steps), series: Object.fromEntries(Object.entries(series).map(([name, values]) => [name, rest(values)])) };
};

// What is counted from the index, such as the calls of each tool, is whole once the index is.
// {metrics, problem, add: rows that came, again: asks for all anew}
export const useMetrics = (id) => {
  const [metrics, setMetrics] = useState(null);
  const [problem, setProblem] = useState(null);
  const [round, setRound] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    let timer;
    const set = (all) => {
      setMetrics((before) => (before ? joined(all, behind(before, all.steps.at(-1) ?? 0)) : all));
      if (!all.whole) timer = setTimeout(() => setRound((number) => number + 1), AGAIN);
    };
    getJson(path("runs", id, "metrics"), { signal: abort.signal }).then(set, (failed) => failed.name !== "AbortError" && setProblem(failed));
    return () => { abort.abort(); clearTimeout(timer); };
  }, [id, round]);
  return { metrics, problem, add: (rows) => setMetrics((before) => joined(before, rows)), again: () => setRound((number) => number + 1) };
};

// The state of a run, kept up by its events: {state, steps, index, about}. A connection that ends is made again.
export const useLive = (id, about, { metrics, add, again: count }) => {
  const [told, setTold] = useState({});
  const [fresh, setFresh] = useState(null);
  const last = useRef();
  last.current = metrics?.steps.at(-1) ?? 0;
  const active = (told.state ?? about?.state) === "running" || (told.index ?? about?.index)?.state === "indexing";
  useEffect(() => {
    if (!active || !metrics) return undefined;
    const abort = new AbortController();
    // Not ended with the events: they end when the run does, and then its last measurements are asked for.
    const again = () => getJson(path("runs", id)).then(setFresh, () => {});
    const listen = async () => {
      while (!abort.signal.aborted) {
        try {
          for await (const { event, data } of events(path("runs", id, "events") + query({ after: last.current }), { signal: abort.signal })) {
            const value = JSON.parse(data);
            if (event === "metrics") { add(value); again(); }
            if (event === "index") setTold((before) => ({ ...before, index: value }));
            if (event === "state") { setTold((before) => ({ ...before, state: value.state })); again(); count(); }
          }
        } catch (problem) {
          if (problem.name === "AbortError") return;
        }
        await new Promise((resolve) => setTimeout(resolve, AGAIN));
      }
    };
    listen();
    return () => abort.abort();
  }, [id, active, !metrics]);
  return { state: told.state, index: told.index ?? about?.index, steps: metrics?.steps.at(-1) ?? 0, about: fresh };
};
