// Takes conversations away as what a training reads.
import { html, useState } from "../lib/html.js";
import { save } from "../lib/chat.js";

const FORMATS = {
  demonstration: "demonstrations, for a warm start",
  feedback: "feedback, for the reward neural",
  task: "tasks, for the environment dataset",
  trajectory: "trajectories, for grpo-host score",
};

export const Export = ({ id }) => {
  const [format, setFormat] = useState("demonstration");
  const [problem, setProblem] = useState(null);
  const take = (event) => {
    event.preventDefault();
    save(format, id).then(() => setProblem(null), setProblem);
  };
  return html`<form class="filters" onSubmit=${take}><label>Export ${id ? "this conversation" : "all"} as
      <select value=${format} onChange=${(event) => setFormat(event.target.value)}>${Object.entries(FORMATS).map(([name, text]) =>
        html`<option value=${name} selected=${name === format}>${text}</option>`)}</select></label>
    <button>Save the file</button>
    ${problem && html`<p class="problem" role="alert">${problem.message}</p>`}</form>`;
};
