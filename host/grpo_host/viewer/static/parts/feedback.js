// Below an answer: thumbs, and what should have been said.
import { html, useState } from "../lib/html.js";
import { judge } from "../lib/chat.js";

export const Feedback = ({ conversation, index, content, model, given, set }) => {
  const [writing, setWriting] = useState(null);
  const [problem, setProblem] = useState(null);
  const now = given ?? { score: null, correction: null };
  const tell = (change) =>
    judge(conversation, { message: index, model: model ?? now.model ?? null, score: now.score, correction: now.correction, ...change })
      .then((kept) => { set(kept); setWriting(null); setProblem(null); }, setProblem);
  const thumb = (score, name) => html`<button class="quiet" aria-pressed=${now.score === score}
    onClick=${() => tell({ score: now.score === score ? null : score })}>${name}<span class="unseen"> answer</span></button>`;
  return html`<div class="judge">${thumb(1, "Good")}${thumb(0, "Bad")}
      <button class="quiet" aria-expanded=${writing !== null} onClick=${() => setWriting(writing === null ? now.correction ?? content : null)}>Correct it</button></div>
    ${now.correction !== null && writing === null && html`<p class="correction"><b>Should have been</b> <span class="said">${now.correction}</span></p>`}
    ${writing !== null && html`<form class="say" onSubmit=${(event) => { event.preventDefault(); tell({ correction: writing.trim() || null }); }}>
      <label class="grow"><span class="unseen">What should have been said</span><textarea rows="3" value=${writing} onInput=${(event) => setWriting(event.target.value)}></textarea></label>
      <button>Keep it</button></form>`}
    ${problem && html`<p class="problem" role="alert">${problem.message}</p>`}`;
};

// A conversation's feedback, for Conversation's `after`.
export const judging = (talk, model, change) => (message, index) =>
  message.role === "assistant" && !message.tool_calls?.length && html`<${Feedback} conversation=${talk.conversation_id} index=${index}
    content=${message.content} model=${model} given=${talk.feedback[index]} set=${(kept) => change({ ...talk, feedback: { ...talk.feedback, [index]: kept } })} />`;
