// What a run's numbers say is wrong, since when, and what to do.
import { html } from "../lib/html.js";
import { link } from "../lib/route.js";

const SIGNS = { error: "✕", warning: "!", info: "i" };
const ORDER = ["error", "warning", "info"];

export const Diagnosis = ({ run, found, show }) => {
  const ordered = [...(found ?? [])].sort((a, b) => ORDER.indexOf(a.severity) - ORDER.indexOf(b.severity));
  if (!ordered.length) return html`<p class="note"><span class="good" aria-hidden="true">✓</span> No rule found a fault in the numbers of this run.</p>`;
  return html`<ul class="diagnosis">${ordered.map((item) => html`<li class=${item.severity}>
    <span class="sign" aria-hidden="true">${SIGNS[item.severity]}</span>
    <div><p><span class="unseen">${item.severity}: </span><b>${item.text}</b></p>
      ${item.advice && html`<p>${item.advice}</p>`}
      <p class="links">${typeof item.step === "number" && html`<a href=${link(["run", run, "groups"], { step: item.step })}>groups of step ${item.step}</a>
        <a href=${link(["run", run, "trajectories"], { step: item.step })}>its trajectories</a>`}
      ${item.series?.length > 0 && html`<button class="linkish" onClick=${() => show(item.series)}>show ${item.series.join(", ")}</button>`}
      <code>${item.rule}</code></p></div></li>`)}</ul>`;
};
