// Chat with the base model and trained runs side by side: each answers the same words in its own conversation.
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { conversation, models, say } from "../lib/chat.js";
import { link, replace } from "../lib/route.js";
import { Loaded, Problem } from "../parts/common.js";
import { Conversation } from "../parts/conversation.js";
import { judging } from "../parts/feedback.js";

const NOTHING = { history: [], feedback: {}, ran: new Map() };

// The calls of an answer with how they went: both are in the order in which they were made.
const ranOf = (messages, runs) => {
  const ids = messages.flatMap((message) => (message.tool_calls ?? []).map((call) => call.id));
  const known = runs.filter((run) => run.name);
  return ids.length === known.length ? known.map((run, index) => [ids[index], { seconds: run.seconds, error: run.ok ? null : run.result }]) : [];
};

const Talk = ({ model, all, choose, drop, said, settings, busy }) => {
  const [talk, setTalk] = useState(NOTHING);
  const [now, setNow] = useState(null);
  const [cut, setCut] = useState(false);
  const [problem, setProblem] = useState(null);
  const running = useRef();
  const heard = useRef(said.number); // a model that comes later answers what is said from then on
  useEffect(() => () => running.current?.abort(), []);
  useEffect(() => {
    running.current?.abort();
    setTalk(NOTHING); setNow(null); setProblem(null); setCut(false);
  }, [model, said.begun]);
  useEffect(() => {
    if (said.number === heard.current) return;
    heard.current = said.number;
    const abort = new AbortController();
    running.current = abort;
    setProblem(null); setCut(false); setNow(""); busy(true);
    const answered = async () => {
      const last = await say(said.text, { model, ...settings, ...(talk.conversation_id ? { conversation_id: talk.conversation_id } : {}) }, { signal: abort.signal, onText: setNow });
      const whole = await conversation(last.conversation_id);
      const ran = new Map([...talk.ran, ...ranOf(whole.history.slice(talk.history.length), last.tool_runs ?? [])]);
      if (abort.signal.aborted) return;
      setTalk({ ...whole, ran });
      setCut(last.finish_reason === "length");
    };
    answered().catch((failed) => failed.name !== "AbortError" && setProblem(failed)).finally(() => { setNow(null); busy(false); });
  }, [said.number]);
  const shown = now === null ? talk.history : [...talk.history, { role: "user", content: said.text }];
  return html`<section class="lane"><h3><label>Model <select value=${model} onChange=${(event) => choose(event.target.value)}>
      ${all.map((id) => html`<option value=${id} selected=${id === model}>${id}</option>`)}</select></label>
      ${talk.conversation_id && html`<a href=${link(["conversation", talk.conversation_id])}>Open</a>`}
      ${drop && html`<button class="quiet" aria-label=${`Close ${model}`} onClick=${drop}>✕</button>`}</h3>
    <${Conversation} messages=${shown} ran=${talk.ran} after=${judging(talk, model, setTalk)} />
    ${now !== null && html`<div class="message assistant live"><h3>Assistant</h3><div class="said" aria-live="polite">${now || "…"}</div></div>`}
    ${cut && html`<p class="warn">Cut off at the most tokens of an answer.</p>`}
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
    return html`<h2 class="unseen">Answers</h2><div class="lanes talks">${shown.map((model, index) => html`<${Talk} key=${`${model} ${shown.slice(0, index).filter((one) => one === model).length}`} model=${model} all=${all} said=${said} settings=${settings} busy=${busy}
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
        <span class="dim">All have the agent's instructions and tools. What is said is kept as <a href=${link(["conversations"])}>your conversations</a>.</span></div>`;
  }}</>`;
};
