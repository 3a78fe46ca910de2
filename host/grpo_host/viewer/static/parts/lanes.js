// An app of several agents: each has a lane of its own beside the conversation with the user.
import { html } from "../lib/html.js";
import { path, useJson } from "../lib/api.js";
import { Loaded } from "./common.js";
import { Conversation, Long } from "./conversation.js";

// What a sequence holds, by who wrote it.
const blocksOf = (sequence) => {
  const blocks = [];
  sequence.text.forEach((text, index) => {
    const sampled = sequence.logprob[index] !== null;
    if (blocks.at(-1)?.sampled !== sampled) blocks.push({ sampled, text: "" });
    blocks.at(-1).text += text;
  });
  return blocks;
};

export const Lanes = ({ run, agents, trajectory }) => {
  const answer = useJson(path("runs", run, "trajectories", trajectory.id, "tokens"));
  return html`<div class="lanes" tabindex="0" role="region" aria-label="Agents">
  <section class="lane"><h3>Conversation</h3><${Conversation} messages=${trajectory.messages} turns=${trajectory.turns} /></section>
  ${agents.map((agent) => html`<section class="lane"><h3>${agent.role || "app"}</h3><${Loaded} of=${answer}>${({ sequences }) => html`
    <ol class="conversation">${agent.sequences.flatMap((index) => blocksOf(sequences[index])).map((block) => html`<li class=${`message ${block.sampled ? "assistant" : "other"}`}>
      <h3>${block.sampled ? "Said by the policy" : "Shown to it"}</h3><${Long} text=${block.text} /></li>`)}</ol>`}</></section>`)}</div>`;
};
