// The groups of a run, and one of them: what did the better ones do?
import { html } from "../lib/html.js";
import { path, query, useJson } from "../lib/api.js";
import { fixed, plural, signed } from "../lib/format.js";
import { link, replace } from "../lib/route.js";
import { Loaded, RunTabs, Reward, Success } from "../parts/common.js";
import { Conversation, Long } from "../parts/conversation.js";

const spread = (rewards) => {
  const known = rewards.filter((value) => typeof value === "number");
  if (!known.length) return null;
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  return { mean, low: Math.min(...known), high: Math.max(...known), failed: rewards.length - known.length };
};

const Strip = ({ rewards }) => {
  const ordered = rewards.filter((value) => typeof value === "number").sort((a, b) => b - a);
  const [low, high] = [Math.min(0, ...ordered), Math.max(1, ...ordered)];
  const wide = 100 / Math.max(ordered.length, 1);
  return html`<svg class="strip" viewBox="0 0 100 20" preserveAspectRatio="none" role="img" aria-label=${`rewards: ${ordered.map((value) => fixed(value)).join(", ")}`}>
    ${ordered.map((value, index) => { const tall = Math.max(0.6, (20 * (value - low)) / (high - low)); return html`<rect x=${index * wide} width=${wide * 0.85} y=${20 - tall} height=${tall} />`; })}</svg>`;
};

export const Groups = ({ run, values, parts }) => {
  const about = useJson(path("runs", run));
  const steps = about.data?.planned_steps;
  const answer = useJson(path("runs", run, "groups") + query({ step: values.step }));
  const step = values.step ?? answer.data?.step;
  const to = (next) => replace(parts, { ...values, step: next });
  return html`<${RunTabs} run=${run} name=${about.data?.name} current="groups" />
    <form class="filters" onSubmit=${(event) => event.preventDefault()}>
      <button type="button" disabled=${!step || step <= 1} onClick=${() => to(Number(step) - 1)} aria-label="Step before">←</button>
      <label>Step <input inputmode="numeric" size="4" value=${step ?? ""} onChange=${(event) => to(event.target.value)} /></label>
      <button type="button" disabled=${steps && step >= steps} onClick=${() => to(Number(step) + 1)} aria-label="Step after">→</button>
      <span class="dim">A group is the trajectories of one task that GRPO compares. One whose rewards are all the same teaches nothing.</span></form>
    <${Loaded} of=${answer}>${({ groups }) => groups.length === 0 ? html`<p>No group${step ? ` of step ${step}` : ""}.</p>` : html`
      <p class="dim" role="status">${plural(groups.length, "group")}</p>
      <ul class="groups">${groups.map((group) => {
        const found = spread(group.rewards);
        return html`<li key=${group.id}><a href=${link(["run", run, "group", group.id])}><b>${group.task}</b> <small>step ${group.step}</small>
          <${Strip} rewards=${group.rewards} />
          <span>${found ? html`mean <b>${fixed(found.mean)}</b>, ${fixed(found.low)} to ${fixed(found.high)}` : "no rewards"}</span>
          ${found && found.low === found.high && html`<span class="warn">teaches nothing</span>`}
          ${found?.failed > 0 && html`<span class="bad">${found.failed} failed</span>`}</a></li>`;
      })}</ul>`}</>`;
};

// How many messages all of a group begin with: they are shown once. A call's result is shown below the call, so
// calls that were answered otherwise do not count.
const shared = (trajectories) => {
  const written = trajectories.map((one) => one.messages.map((message) => JSON.stringify(message)));
  let count = 0;
  while (written.length && written.every((one) => count < one.length - 1 && one[count] === written[0][count])) count += 1;
  while (count && trajectories.some((one) => one.messages[count]?.role === "tool")) count -= 1;
  return count;
};

const tools = (trajectory) => trajectory.messages.flatMap((message) => (message.tool_calls ?? []).map((call) => call.function?.name ?? call.name));

const Member = ({ run, item, from }) => {
  const one = item.trajectory ?? item;
  const tokens = one.turns.reduce((sum, turn) => sum + turn.completion_tokens, 0);
  const errors = one.turns.flatMap((turn) => turn.tools ?? []).filter((ran) => ran.error).length;
  const better = item.advantage > 0 ? "better" : item.advantage < 0 ? "worse" : "";
  return html`<li class=${`member ${better}`}>
    <h3><a href=${link(["run", run, "trajectory", one.id])}>${one.id}</a></h3>
    <p class="facts"><${Reward} value=${one.reward} />
      ${typeof item.advantage === "number" && html`<b class=${item.advantage > 0 ? "good" : item.advantage < 0 ? "bad" : ""}>advantage ${signed(item.advantage)}</b>`}
      ${one.status !== "completed" && html`<span class="warn">${one.status}: ${one.stop_reason.replaceAll("_", " ")}</span>`}${one.turns.some((turn) => turn.finish_reason === "length") && html`<span class="warn">cut off</span>`}<${Success} value=${one.outcome?.success} />
      <span>${plural(one.turns.length, "turn")}, ${plural(tokens, "token")}</span>
      ${tools(one).length > 0 && html`<span>${tools(one).join(" → ")}</span>`}${errors > 0 && html`<span class="bad">${plural(errors, "tool error")}</span>`}</p>
    ${Object.values(one.rewards ?? {}).some((reward) => reward.explanation || reward.error) && html`<p class="why">${Object.entries(one.rewards).map(([name, reward]) =>
      html`<span><b>${name}</b> <${Long} text=${reward.error ?? reward.explanation ?? ""} most=${400} /></span>`)}</p>`}
    ${one.error && html`<p class="problem">${one.error}</p>`}
    <${Conversation} messages=${one.messages} turns=${one.turns} from=${from} /></li>`;
};

export const Group = ({ run, id }) => {
  const about = useJson(path("runs", run));
  const answer = useJson(path("runs", run, "groups", id));
  return html`<${RunTabs} run=${run} name=${about.data?.name} current="groups" /><h2>Group ${id}</h2>
    <${Loaded} of=${answer}>${(data) => {
      const all = data.trajectories.map((item) => item.trajectory ?? item);
      const from = shared(all);
      return html`${from > 0 && html`<details class="shared" open><summary>All begin with ${plural(from, "message")}</summary><${Conversation} messages=${all[0].messages.slice(0, from)} /></details>`}
        <ol class="members" tabindex="0" aria-label="Trajectories, highest reward first">${data.trajectories.map((item) => html`<${Member} key=${(item.trajectory ?? item).id} run=${run} item=${item} from=${from} />`)}</ol>`;
    }}</>`;
};
