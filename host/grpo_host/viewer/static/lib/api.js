// Asks the server. Paths are relative to the page, so that it also works below another path.
import { useEffect, useState } from "./html.js";

export const path = (...parts) => "api/" + parts.map(encodeURIComponent).join("/");

// A key of `grpo-host serve`, for as long as the tab is open; `grpo-host view` needs none beside its cookie.
const KEY = "grpo-key";
export const keyOf = () => sessionStorage.getItem(KEY) ?? "";
export const keepKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const wordsOf = async (response) => {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text);
    return error?.message ?? error ?? text;
  } catch {
    return text || response.statusText;
  }
};

export const ask = async (url, options = {}) => {
  const headers = { ...options.headers };
  if (keyOf()) headers.authorization = `Bearer ${keyOf()}`;
  let response;
  try {
    response = await fetch(url, { ...options, headers });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Refused(0, "The server does not answer. Is grpo-host still running?");
  }
  if (!response.ok) throw new Refused(response.status, await wordsOf(response));
  return response;
};

export const query = (values) => {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? "?" + new URLSearchParams(given) : "";
};

export const getJson = async (url, options) => (await ask(url, options)).json();

const BUSY = 503;
const AGAIN = 1000;

// What a page shows: {data, problem, loading, busy}. The data of before stays until the new is there.
// While the server is busy, as with an index that it makes, the page asks again and shows the server's words.
// again: by the data, after how many milliseconds to ask anew. round: another one asks anew at once.
export const useJson = (url, again, round) => {
  const [state, setState] = useState({ loading: true });
  useEffect(() => {
    if (!url) return setState({});
    const abort = new AbortController();
    let timer;
    const get = () =>
      getJson(url, { signal: abort.signal }).then(
        (data) => {
          setState({ data, of: url });
          const wait = again?.(data);
          if (wait) timer = setTimeout(get, wait);
        },
        (problem) => {
          if (problem.name === "AbortError") return;
          if (problem.status !== BUSY) return setState({ problem, of: url });
          setState((before) => ({ data: before.data, loading: true, busy: problem.message }));
          timer = setTimeout(get, AGAIN);
        },
      );
    setState((before) => ({ data: before.data, loading: true }));
    get();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [url, round]);
  return state;
};

// Server-sent events, by fetch and not EventSource, which can send no key. Each event: {event, data}.
export const events = async function* (url, options = {}) {
  const response = await ask(url, { ...options, headers: { accept: "text/event-stream", ...options.headers } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value.replaceAll("\r\n", "\n")).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const found = { event: "message", data: "" };
      for (const line of block.split("\n")) {
        const [, name, text] = /^(event|data): ?(.*)$/.exec(line) ?? [];
        if (name === "event") found.event = text;
        if (name === "data") found.data += (found.data && "\n") + text;
      }
      if (found.data) yield found;
    }
  }
};
