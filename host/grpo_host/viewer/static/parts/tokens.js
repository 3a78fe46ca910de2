// Every token of the ledger, coloured by one scale; its values at the pointer and by the arrow keys.
import { html, useEffect, useMemo, useRef, useState } from "../lib/html.js";
import { SCALES, known } from "../lib/scales.js";
import { number } from "../lib/format.js";

// What cannot be seen is shown by a sign. A line break stays one.
const visible = (text) => text.replaceAll("\n", "↵\n").replaceAll("\t", "⇥\t").replace(/[\u0000-\u0008\u000b-\u001f\u007f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`) || "∅";

// The tokens of a sequence, message by message.
const messagesOf = (sequence) => {
  const found = [];
  sequence.text.forEach((_, index) => {
    const message = sequence.message?.[index] ?? null;
    if (!found.length || found.at(-1).message !== message) found.push({ message, from: index, to: index });
    found.at(-1).to = index + 1;
  });
  return found;
};

const Legend = ({ scale, sequences }) => {
  const { palette, legend, about, step } = SCALES[scale];
  const versions = legend ? [] : [...new Set(sequences.flatMap((one) => one.policy_version.filter((value) => typeof value === "number" && value >= 0)))].sort((a, b) => a - b);
  const shown = legend ?? versions.map((value) => [step(value), `version ${value}`]);
  return html`<div class="scale"><span>${about}</span><ul>${shown.map(([place, text]) =>
    html`<li><i class=${`tok ${palette}-${place}`}></i>${text}</li>`)}</ul></div>`;
};

const Values = ({ sequence, index, chosen }) => {
  if (!sequence) return html`<p class="dim">Point at a token, or go from one to the next by the arrow keys.</p>`;
  const rows = Object.entries(SCALES).map(([name, scale]) => [name, scale, scale.of(sequence, index) ?? null]);
  return html`<p class="token-text"><code>${visible(sequence.text[index])}</code> <span class="dim">id ${sequence.id[index]}, position ${number(index)}</span></p>
    <dl>${rows.map(([name, scale, value]) => html`<div class=${name === chosen ? "chosen" : null}><dt>${scale.title}</dt>
      <dd class=${value === null ? "dim" : null}>${value === null ? "not known" : scale.say(value)}</dd></div>`)}</dl>`;
};

const Sequence = ({ sequence, place, scale, current, names }) => {
  const { of, step, palette } = SCALES[scale];
  const messages = useMemo(() => messagesOf(sequence), [sequence]);
  return html`<div class="sequence" data-sequence=${place}>${messages.map(({ message, from, to }) => html`<div class="block">
    <h4>${names(message, sequence)}</h4>
    <div class="tokens">${sequence.text.slice(from, to).map((text, offset) => {
      const index = from + offset;
      const value = of(sequence, index) ?? null;
      const colour = value === null ? "none" : `${palette}-${step(value)}`;
      return html`<span class=${`tok ${colour}${current === index ? " now" : ""}`} data-index=${index}>${visible(text)}</span>`;
    })}</div></div>`)}</div>`;
};

const Choice = ({ scale, choose, sequences }) => {
  const missing = useMemo(() => Object.keys(SCALES).filter((name) => !known(name, sequences)), [sequences]);
  return html`<fieldset class="choice"><legend>Colour by</legend>${Object.entries(SCALES).map(([name, { title }]) => html`<label>
    <input type="radio" name="scale" value=${name} checked=${name === scale} disabled=${missing.includes(name)} onChange=${() => choose(name)} />
    <span>${title}</span></label>`)}
    ${missing.length > 0 && html`<small class="dim">${missing.map((name) => SCALES[name].title.toLowerCase()).join(", ")}: not recorded for this trajectory${missing.some((name) => ["gap", "ratio"].includes(name)) ? html` (<code>record_tokens</code> in agent.yaml)` : ""}</small>`}</fieldset>`;
};

const MOVES = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 };

export const Tokens = ({ sequences, scale, choose, messages }) => {
  const [at, setAt] = useState(null);
  const place = useRef();
  const name = SCALES[scale] ? scale : "mask";
  const names = (index, sequence) => {
    const role = messages?.[index]?.role;
    return index === null || index < 0 ? "message boundaries were not recorded" : role ? `${index + 1} · ${role}` : `message ${index + 1}`;
  };
  const point = (event) => {
    const token = event.target.closest?.(".tok[data-index]");
    if (token) setAt({ sequence: Number(token.closest("[data-sequence]").dataset.sequence), index: Number(token.dataset.index) });
  };
  const move = (event) => {
    const now = at ?? { sequence: 0, index: 0 };
    const last = sequences[now.sequence].text.length - 1;
    const to = event.key === "Home" ? 0 : event.key === "End" ? last : now.index + (MOVES[event.key] ?? NaN);
    if (Number.isNaN(to)) return;
    event.preventDefault();
    if (to > last && now.sequence < sequences.length - 1) setAt({ sequence: now.sequence + 1, index: 0 });
    else if (to < 0 && now.sequence > 0) setAt({ sequence: now.sequence - 1, index: sequences[now.sequence - 1].text.length - 1 });
    else setAt({ ...now, index: at || event.key === "End" ? Math.max(0, Math.min(last, to)) : 0 });
  };
  useEffect(() => {
    if (document.activeElement === place.current) place.current.querySelector(".now")?.scrollIntoView({ block: "nearest" });
  }, [at]);
  if (!sequences.length) return html`<p class="dim">No token ids were recorded: the backend does not speak them.</p>`;
  const pointed = at && sequences[at.sequence];
  return html`<div class="token-view">
    <div class="token-side"><${Choice} scale=${name} choose=${choose} sequences=${sequences} /><${Legend} scale=${name} sequences=${sequences} />
      <div class="values" role="status" aria-live="polite"><${Values} sequence=${pointed} index=${at?.index} chosen=${name} /></div></div>
    <div class="token-main" ref=${place} tabindex="0" role="group" aria-label="Tokens; arrow keys go from one to the next" onKeyDown=${move} onMouseOver=${point} onClick=${point}>
      ${sequences.map((sequence, index) => html`${sequences.length > 1 && html`<h3>Sequence ${index + 1}${sequence.role ? ` · ${sequence.role}` : ""}</h3>`}
        <${Sequence} sequence=${sequence} place=${index} scale=${name} names=${names} current=${at?.sequence === index ? at.index : null} />`)}</div>
  </div>`;
};
