// What a run was configured with, and its report, as they are on disk.
import { html } from "../lib/html.js";
import { path, useJson } from "../lib/api.js";
import { Copy, Loaded, RunTabs } from "../parts/common.js";

export const Settings = ({ run }) => {
  const answer = useJson(path("runs", run));
  return html`<${Loaded} of=${answer}>${(data) => html`
    <${RunTabs} run=${run} name=${data.name} current="settings" />
    ${[["agent.yaml", data.config], ["report.json", data.report]].map(([name, value]) => value && html`
      <section><h2>${name} <${Copy} text=${JSON.stringify(value, null, 2)}>Copy as JSON</></h2>
      <pre class="record" tabindex="0">${JSON.stringify(value, null, 2)}</pre></section>`)}`}</>`;
};
