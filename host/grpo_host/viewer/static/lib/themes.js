// Which metrics a run's charts show together, in which order. What no chart names is below, under "Other".
// lines: names, or patterns that take all that match. band: [low, high]; without their metrics, a spread to both
// sides of the first line. used: shown by itself only if something was counted. A mean with its deviation would go beyond what a reward can be.
export const CHARTS = [
  { title: "Reward", lines: ["reward"], band: ["rollouts/reward_p10", "rollouts/reward_p90"], spread: "reward_std", heldOut: "reward", open: true },
  { title: "Parts of the reward", lines: [/^rewards\/.*\/mean$/, /^parts\//], several: true, open: true },
  { title: "Success", lines: [/(^|\/)success(_rate)?$/], heldOut: "success", open: true },
  { title: "Groups that teach nothing", lines: ["frac_reward_zero_std"], share: true, open: true },
  { title: "Length of an answer, in tokens", lines: ["completions/mean_length", "rollouts/tokens_per_turn"], band: ["completions/min_length", "completions/max_length"], open: true },
  { title: "Cut off", lines: ["rollouts/cut", "completions/clipped_ratio"], share: true, open: true },
  { title: "Entropy", lines: ["entropy", /\/entropy$/], open: true },
  { title: "Importance ratio, engine to trainer", lines: ["sampling/importance_sampling_ratio/mean"], band: ["sampling/importance_sampling_ratio/min", "sampling/importance_sampling_ratio/max"], open: true },
  { title: "Clipped", lines: [/^clip_ratio\/.*_mean$/, "sampling/importance_sampling_ratio/capped"], share: true },
  { title: "Share of the updates that is visible", lines: ["weights/visible_update"], share: true, open: true },
  { title: "Distance from the first model", lines: ["kl", /\/kl$/] },
  { title: "Tool calls", lines: ["rollouts/tool_calls", /^tools\/.*\/calls$/], share: true, open: true, used: true },
  { title: "Tool calls that failed", lines: ["rollouts/tool_errors", /^tools\/.*\/errors$/], share: true, open: true, used: true },
  { title: "Episodes by how they ended", lines: [/^rollouts\/stop\//, "rollouts/failed", "rollouts/truncated"] },
  { title: "Turns an episode", lines: ["rollouts/turns_per_episode"] },
  { title: "Time by phase, in seconds", lines: [/^seconds\//], open: true },
  { title: "Tokens a second", lines: ["rollouts/tokens_per_second"], open: true },
  { title: "Gradient", lines: ["grad_norm"] },
  { title: "Loss", lines: ["loss"] },
  { title: "Learning rate", lines: ["learning_rate"] },
];

// Of charts whose metrics' names have nothing in common.
const LABELS = {
  "rollouts/tool_calls": "all", "rollouts/tool_errors": "all",
  "completions/mean_length": "of an episode", "rollouts/tokens_per_turn": "of a reply",
  "completions/clipped_ratio": "of the episodes", "rollouts/cut": "of the replies",
};

const HIDDEN = new Set(["step", "time", "epoch", "num_tokens"]);

const takes = (line, name) => (typeof line === "string" ? line === name : line.test(name));

// The charts of a run that has these metrics, each with its lines by name.
export const chartsOf = (names) => {
  const left = new Set(names.filter((name) => !HIDDEN.has(name)));
  const charts = [];
  for (const chart of CHARTS) {
    const lines = chart.lines.flatMap((line) => [...left].filter((name) => takes(line, name)));
    if (lines.length < (chart.several ? 2 : 1)) continue; // the only part of a reward is the reward
    for (const name of [...lines, chart.spread, ...(chart.band ?? [])]) left.delete(name);
    charts.push({ ...chart, lines: [...new Set(lines)], names: [...new Set([...lines, chart.spread, ...(chart.band ?? [])])].filter(Boolean) });
  }
  for (const name of [...left].sort()) charts.push({ title: name, lines: [name], names: [name], other: true });
  return charts;
};

// rewards/task_success/mean is task_success: what all names of a chart begin or end with says nothing.
export const short = (name, names) => {
  const tool = /^tools\/(.+)\/(calls|errors)$/.exec(name)?.[1];
  if (tool ?? LABELS[name]) return tool ?? LABELS[name];
  if (names.length < 2) return name.replace(/\/mean$/, "").split("/").at(-1);
  const split = names.map((other) => other.split("/"));
  const parts = name.split("/");
  while (parts.length > 1 && split.every((other) => other[0] === parts[0])) {
    parts.shift();
    split.forEach((other) => other.shift());
  }
  while (parts.length > 1 && split.every((other) => other.at(-1) === parts.at(-1))) {
    parts.pop();
    split.forEach((other) => other.pop());
  }
  return parts.join("/");
};
