// One trajectory: its conversation, its tokens, its rewards, its record.
import { html } from "../lib/html.js";
import { path, useJson } from "../lib/api.js";
import { date, duration, fixed, plural, signed } from "../lib/format.js";
import { link, replace } from "../lib/route.js";
import { Copy, Loaded, RunTabs, Success } from "../parts/common.js";
import { Conversation } from "../parts/conversation.js";
import { Lanes } from "../parts/lanes.js";
import { Rewards } from "../parts/rewards.js";
import { Tokens } from "../parts/tokens.js";

const VIEWS = { conversation: "Conversation", tokens: "Tokens", record: "Record" };

const TokensOf = ({ run, id, values, set, trajectory }) => {
  const answer = useJson(path("runs", run, "trajectories", id, "tokens"));
  return html`<${Loaded} of=${answer}>${({ sequences }) => html`<${Tokens} sequences=${sequences} messages=${sequences.length === 1 ? trajectory.messages : null}
    scale=${values.colour ?? "mask"} choose=${(colour) => set({ ...values, view: "tokens", colour })} />`}</>`;
};

const Facts = ({ run, data }) => {
  const one = data.trajectory;
  const group = data.group;
  const facts = {
    Reward: html`<b>${fixed(one.reward)}</b>`, Advantage: typeof data.advantage === "number" ? signed(data.advantage) : null,
    Task: html`<a href=${link(["run", run, "trajectories"], { task: one.task.id })}>${one.task.id}</a> <small>${one.task.split}</small>`,
    Ended: html`${one.status}, ${one.stop_reason.replaceAll("_", " ")} <${Success} value=${one.outcome?.success} />`,
    Turns: one.turns.length ? plural(one.turns.length, "turn") : null, Took: duration(one.seconds),
    Played: date(one.started)?.toLocaleString(), "Policy version": one.policy_version,
    Group: group && html`<a href=${link(["run", run, "group", group])}>compare with its group</a>`,
    Trace: data.trace_url ? html`<a href=${data.trace_url} rel="noreferrer">${data.trace_id}</a>` : data.trace_id && html`<code>${data.trace_id}</code> <${Copy} text=${data.trace_id}>Copy</>`,
  };
  return html`<dl class="facts">${Object.entries(facts).filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) =>
    html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
};

export const Trajectory = ({ run, id, values, parts }) => {
  const answer = useJson(path("runs", run, "trajectories", id));
  const about = useJson(path("runs", run));
  const view = VIEWS[values.view] ? values.view : "conversation";
  const set = (next) => replace(parts, next);
  return html`<${RunTabs} run=${run} name=${about.data?.name} current="trajectories" /><h2>${id}</h2>
    <${Loaded} of=${answer}>${(data) => {
      const one = data.trajectory;
      return html`<${Facts} run=${run} data=${data} />
        ${one.error && html`<p class="problem">${one.error}</p>`}
        <section><h3 class="unseen">Rewards</h3><${Rewards} trajectory=${one} /></section>
        <nav class="tabs" aria-label="This trajectory">${Object.entries(VIEWS).map(([name, text]) =>
          html`<a href=${link(parts, { ...values, view: name })} aria-current=${name === view ? "page" : null}
            onClick=${(event) => { event.preventDefault(); set({ ...values, view: name }); }}>${text}</a>`)}</nav>
        ${view === "conversation" && (data.agents?.length > 1 ? html`<${Lanes} run=${run} agents=${data.agents} trajectory=${one} />` : html`<${Conversation} messages=${one.messages} turns=${one.turns} />`)}
        ${view === "tokens" && html`<${TokensOf} run=${run} id=${id} values=${values} set=${set} trajectory=${one} />`}
        ${view === "record" && html`<p><${Copy} text=${JSON.stringify(one)}>Copy as JSON</></p><pre class="record" tabindex="0">${JSON.stringify({ ...one, ledger: one.ledger && "under Tokens" }, null, 2)}</pre>`}`;
    }}</>`;
};
