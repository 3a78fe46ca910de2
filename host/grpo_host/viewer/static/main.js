// The page of `grpo-host view` and of /ui: its frame, and which page an address means.
import { html, render, useEffect, useRef, useState } from "./lib/html.js";
import { useRoute, link, replace } from "./lib/route.js";
import { toggleTheme, useTheme } from "./lib/theme.js";
import { Runs } from "./pages/runs.js";
import { Run } from "./pages/run.js";
import { Trajectories } from "./pages/trajectories.js";
import { Trajectory } from "./pages/trajectory.js";
import { Groups, Group } from "./pages/groups.js";
import { Compare } from "./pages/compare.js";
import { Playground } from "./pages/playground.js";
import { Conversations, Talked } from "./pages/conversations.js";
import { getJson } from "./lib/api.js";
import { SERVED } from "./lib/chat.js";
import { Settings } from "./pages/settings.js";

const OF_A_RUN = {
  trajectories: ["Trajectories", Trajectories],
  trajectory: ["Trajectory", Trajectory],
  groups: ["Groups", Groups],
  group: ["Group", Group],
  settings: ["Settings", Settings],
};

const OF_A_KEY = { playground: ["Playground", Playground], conversations: ["Conversations", Conversations], conversation: ["Conversation", Talked] };

const pageOf = ({ parts }) => {
  const [first, run, kind, id] = parts;
  if (!first) return { title: "Runs", Page: Runs };
  if (first === "compare") return { title: "Compare", Page: Compare };
  if (SERVED && OF_A_KEY[first]) return { title: OF_A_KEY[first][0], Page: OF_A_KEY[first][1], run };
  if (first !== "run" || !run) return { title: "Not found", Page: NotFound };
  if (!kind) return { title: `Run ${run}`, Page: Run, run };
  const [title, Page] = OF_A_RUN[kind] ?? ["Not found", NotFound];
  return { title: [title, id, run].filter(Boolean).join(" · "), Page, run, id };
};

const NotFound = () => html`<p>There is no such page. <a href=${link([])}>All runs</a></p>`;

const Theme = () => {
  const dark = useTheme() === "dark";
  return html`<button class="quiet" aria-pressed=${dark} onClick=${toggleTheme}>
    <span aria-hidden="true">${dark ? "☾" : "☀"}</span><span class="unseen">Dark colours</span></button>`;
};

// Whether the key sees runs: a key without the scope admin has the playground and its own conversations.
const useSight = () => {
  const [sees, setSees] = useState(true);
  useEffect(() => { if (SERVED) getJson("api/openapi.json").catch((problem) => setSees(problem.status !== 403)); }, []);
  return sees;
};

const App = () => {
  const route = useRoute();
  const sees = useSight();
  const { title, Page, run, id } = pageOf(route);
  const main = useRef();
  const place = route.parts.join("/");
  const first = useRef(true);
  useEffect(() => { if (!sees && !place) replace(["playground"], {}); }, [sees, place]);
  useEffect(() => {
    document.title = title;
    if (first.current) first.current = false;
    else main.current?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, [place]);
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current.focus(); }}>To the content</a>
    <header class="top">
      <nav aria-label="Pages">
        ${sees && html`<a href=${link([])} class="brand" aria-current=${place ? null : "page"}>Runs</a>
        <a href=${link(["compare"])} aria-current=${place === "compare" ? "page" : null}>Compare</a>`}
        ${SERVED && html`<a href=${link(["playground"])} aria-current=${place === "playground" ? "page" : null}>Playground</a>
        <a href=${link(["conversations"])} aria-current=${place === "conversations" ? "page" : null}>Conversations</a>`}
      </nav>
      <${Theme} />
    </header>
    <main id="main" tabindex="-1" ref=${main}>
      <${Page} key=${place} run=${run} id=${id} values=${route.values} parts=${route.parts} />
    </main>`;
};

render(html`<${App} />`, document.body);
