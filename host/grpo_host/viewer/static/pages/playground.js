// Chat with the base model and trained runs side by side: each answers the same words in its own conversation.
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { answer, models } from "../lib/chat.js";
import { duration, pretty } from "../lib/format.js";
import { replace } from "../lib/route.js";
import { Loaded, Problem } from "../parts/common.js";

const Tool = ({ run }) => html`<details class=${`call${run.ok ? "" : " failed"}`}>
  <summary><b>${run.name || "a call that could not be read"}</b><code>${run.arguments}</code>${!run.ok && html`<span class="bad">failed</span>`}<span class="dim">${duration(run.seconds)}</span></summary>
  <pre tabindex="0">${pretty(run.arguments)}</pre><pre tabindex="0">${pretty(run.result)}</pre></details>`;

const Said = ({ message, live }) => html`<li class=${`message ${message.role}`}><h3>${message.role === "user" ? "You" : "Assistant"}</h3>
  ${(message.tool_runs ?? []).map((run) => html`<${Tool} run=${run} />`)}
  <div class="said" aria-live=${live ? "polite" : null}>${message.content || (live ? "…" : "(nothing)")}</div>
  ${message.finish_reason === "length" && html`<p class="warn">Cut off at the most tokens of an answer.</p>`}</li>`;

const Talk = ({ model, all, choose, drop, said, settings, busy }) => {
  const [messages, setMessages] = useState([]);
  const [now, setNow] = useState(null);
  const [problem, setProblem] = useState(null);
  const running = useRef();
  useEffect(() => () => running.current?.abort(), []);
  useEffect(() => {
    running.current?.abort();
    setMessages([]); setNow(null); setProblem(null);
  }, [model, said.begun]);
  useEffect(() => {
    if (!said.text) return;
    const asked = [...messages, { role: "user", content: said.text }];
    const abort = new AbortController();
    running.current = abort;
    setMessages(asked); setProblem(null); setNow(""); busy(true);
    const plain = asked.map(({ role, content }) => ({ role, content }));
    answer(model, plain, settings, { signal: abort.signal, onText: setNow })
      .then((found) => setMessages([...asked, found]), (failed) => failed.name !== "AbortError" && setProblem(failed))
      .finally(() => { setNow(null); busy(false); });
  }, [said.number]);
  return html`<section class="lane"><h3><label>Model <select value=${model} onChange=${(event) => choose(event.target.value)}>
      ${all.map((id) => html`<option value=${id} selected=${id === model}>${id}</option>`)}</select></label>
      ${drop && html`<button class="quiet" aria-label=${`Close ${model}`} onClick=${drop}>✕</button>`}</h3>
    <ol class="conversation">${messages.map((message) => html`<${Said} message=${message} />`)}
      ${now !== null && html`<${Said} message=${{ role: "assistant", content: now }} live />`}</ol>
    ${problem && html`<${Problem} problem=${problem} />`}</section>`;
};

const useModels = () => {
  const [state, setState] = useState({});
  useEffect(() => { models().then((data) => setState({ data }), (problem) => setState({ problem })); }, []);
  return state;
};

export const Playground = ({ values }) => {
  const listed = useModels();
  const [said, setSaid] = useState({ number: 0, begun: 0 });
  const [working, setWorking] = useState(0); // how many models answer
  const [text, setText] = useState("");
  const send = (event) => {
    event.preventDefault();
    if (!text.trim() || working) return;
    setSaid({ ...said, text, number: said.number + 1 });
    setText("");
  };
  return html`<h1>Playground</h1><${Loaded} of=${listed}>${(all) => {
    const named = (values.models ?? "").split(",").filter((id) => all.includes(id));
    const shown = named.length ? named : [...new Set([all[0], all.at(-1)])];
    const set = (models) => replace(["playground"], { ...values, models: models.join(",") });
    const settings = { temperature: Number(values.temperature ?? 0), ...(values.most ? { max_tokens: Number(values.most) } : {}) };
    const busy = (on) => setWorking((count) => Math.max(0, count + (on ? 1 : -1)));
    return html`<div class="lanes talks">${shown.map((model, index) => html`<${Talk} key=${index} model=${model} all=${all} said=${said} settings=${settings} busy=${busy}
        choose=${(id) => set(shown.map((one, place) => (place === index ? id : one)))}
        drop=${shown.length > 1 ? () => set(shown.filter((_, place) => place !== index)) : null} />`)}</div>
      <form class="say" onSubmit=${send}>
        <label class="grow"><span class="unseen">What you say</span><textarea rows="2" value=${text} placeholder="Say something to all of them" onInput=${(event) => setText(event.target.value)}
          onKeyDown=${(event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && send(event)}></textarea></label>
        <button disabled=${working > 0}>Send</button>
      </form>
      <div class="filters"><label>Temperature <input inputmode="decimal" size="4" value=${values.temperature ?? "0"} onChange=${(event) => replace(["playground"], { ...values, temperature: event.target.value })} /></label>
        <label>Most tokens <input inputmode="numeric" size="5" value=${values.most ?? ""} placeholder="as set" onChange=${(event) => replace(["playground"], { ...values, most: event.target.value })} /></label>
        <button type="button" onClick=${() => set([...shown, all.find((id) => !shown.includes(id)) ?? all[0]])}>Add a model</button>
        <button type="button" onClick=${() => setSaid({ number: said.number, begun: said.begun + 1 })}>Begin anew</button>
        <span class="dim">The agent calls its own tools. Nothing of this is stored.</span></div>`;
  }}</>`;
};
