// An app of several agents: each has a lane of its own beside the conversation with the user.
import { html } from "../lib/html.js";
import { path, useJson } from "../lib/api.js";
import { plural } from "../lib/format.js";
import { Loaded } from "./common.js";
import { Conversation, Long, NAMES } from "./conversation.js";

// What a sequence of before there were message boundaries holds, by who wrote it.
const blocksOf = (sequence) => {
  const blocks = [];
  sequence.text.forEach((text, index) => {
    const sampled = sequence.logprob[index] !== null;
    if (blocks.at(-1)?.sampled !== sampled) blocks.push({ sampled, role: sampled ? "assistant" : "other", text: "" });
    blocks.at(-1).text += text;
  });
  return blocks;
};

const sharedStart = (before, now) => {
  let count = 0;
  while (count < now.length && before[count] && before[count].role === now[count].role && before[count].text === now[count].text) count += 1;
  return count;
};

const Said = ({ one }) => html`<li class=${`message ${NAMES[one.role] ? one.role : "other"}`}>
  <h3>${NAMES[one.role] ?? "Shown to it"}${one.sampled ? "" : one.role === "assistant" ? " (from before)" : ""}</h3><${Long} text=${one.text} /></li>`;

// The contexts of an agent, one below the other. What a context has in common with the one above is said once.
const Lane = ({ name, contexts }) => html`<section class="lane"><h3>${name}</h3>${contexts.map((messages, number) => {
  const shared = number ? sharedStart(contexts[number - 1], messages) : 0;
  return html`${contexts.length > 1 && html`<h4>Context ${number + 1}</h4>`}
    ${shared > 0 && html`<p class="dim">begins as the one above: ${plural(shared, "message")}</p>`}
    <ol class="conversation">${messages.slice(shared).map((one) => html`<${Said} one=${one} />`)}</ol>`;
})}</section>`;

export const Lanes = ({ run, agents, trajectory }) => {
  const answer = useJson(path("runs", run, "trajectories", trajectory.id, "tokens"));
  return html`<div class="lanes" tabindex="0" role="region" aria-label="Agents">
  <section class="lane"><h3>Conversation</h3><${Conversation} messages=${trajectory.messages} turns=${trajectory.turns} /></section>
  ${agents.map((agent) => html`<${Loaded} of=${answer}>${({ sequences }) => html`<${Lane} name=${agent.role || "app"}
    contexts=${agent.sequences.map((index) => sequences[index].messages.length ? sequences[index].messages : blocksOf(sequences[index]))} />`}</>`)}</div>`;
};
