// The conversations of the key's owner, and one of them: what was said, what people thought of it.
import { html, useEffect, useState } from "../lib/html.js";
import { useJson } from "../lib/api.js";
import { conversation, forget } from "../lib/chat.js";
import { ago, number, plural } from "../lib/format.js";
import { go, link } from "../lib/route.js";
import { Loaded } from "../parts/common.js";
import { Conversation } from "../parts/conversation.js";
import { Export } from "../parts/export.js";
import { judging } from "../parts/feedback.js";

const PAGE = 50;

export const Conversations = ({ values }) => {
  const from = Number(values.from ?? 0);
  const answer = useJson(`../api/conversations?limit=${PAGE}&offset=${from}`);
  return html`<h1>Your conversations</h1><${Loaded} of=${answer}>${({ conversations }) => {
    if (!conversations.length && !from) return html`<p>None yet. <a href=${link(["playground"])}>Begin one in the playground</a>.</p>`;
    return html`<${Export} /><div class="scroll" tabindex="0" role="region" aria-label="Conversations"><table class="cards">
      <thead><tr><th scope="col">Begins with</th><th scope="col">Last said</th><th scope="col">Messages</th><th scope="col">User</th><th scope="col">Strategy</th></tr></thead>
      <tbody>${conversations.map((one) => html`<tr key=${one.conversation_id}>
        <th scope="row" data-label="Begins with"><a href=${link(["conversation", one.conversation_id])}>${one.begins || one.conversation_id}</a></th>
        <td data-label="Last said">${ago(one.updated)}</td><td data-label="Messages" class="number">${number(one.messages)}</td>
        <td data-label="User">${one.user_id ?? "–"}</td><td data-label="Strategy">${one.strategy}</td></tr>`)}</tbody></table></div>
      <p>${from > 0 && html`<a href=${link(["conversations"], { from: Math.max(0, from - PAGE) || null })}>Newer</a> `}
        ${conversations.length === PAGE && html`<a href=${link(["conversations"], { from: from + PAGE })}>Older</a>`}</p>`;
  }}</>`;
};

export const Talked = ({ run: id }) => {
  const [state, setState] = useState({});
  useEffect(() => { conversation(id).then((data) => setState({ data }), (problem) => setState({ problem })); }, [id]);
  const remove = () => confirm("Delete this conversation and what was said of it?") && forget(id).then(() => go(["conversations"]), (problem) => setState({ problem }));
  return html`<h1>Conversation <small>${id}</small></h1><${Loaded} of=${state}>${(talk) => html`<h2 class="unseen">What was said</h2>
    <p class="dim">${plural(talk.messages, "message")}, last ${ago(talk.updated)}${Object.keys(talk.context).length ? `; context ${JSON.stringify(talk.context)}` : ""}</p>
    <${Conversation} messages=${talk.history} after=${judging(talk, null, (data) => setState({ data }))} />
    <${Export} id=${id} /><p><button onClick=${remove}>Delete</button></p>`}</>`;
};
