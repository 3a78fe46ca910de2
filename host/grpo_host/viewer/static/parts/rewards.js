// What each reward gave a trajectory, of what it is made, and why.
import { html } from "../lib/html.js";
import { fixed, number } from "../lib/format.js";
import { Long } from "./conversation.js";

const Part = ({ name, value }) => html`<tr class="part"><th scope="row">${name}</th><td class="number">${fixed(value)}</td><td></td><td></td></tr>`;

export const Rewards = ({ trajectory }) => {
  const given = Object.entries(trajectory.rewards ?? {});
  if (!given.length) return html`<p class="dim">No reward was given${trajectory.error ? ": the episode failed" : ""}.</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Rewards"><table class="rewards">
    <thead><tr><th scope="col">Reward</th><th scope="col" class="number">Value</th><th scope="col" class="number">Weight</th><th scope="col">Why</th></tr></thead>
    <tbody>${given.map(([name, one]) => html`<tr><th scope="row">${name}</th><td class="number"><b>${one.value === null ? "failed" : fixed(one.value)}</b></td>
      <td class="number">× ${number(one.weight)}</td><td class=${`why${one.error ? " bad" : ""}`}><${Long} text=${one.error ?? one.explanation ?? ""} most=${400} /></td></tr>
      ${Object.entries(one.parts ?? {}).map(([part, value]) => html`<${Part} name=${part} value=${value} />`)}`)}</tbody>
  </table></div>`;
};
