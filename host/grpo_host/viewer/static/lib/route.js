// The address: #/run/ID/trajectories?q=refund. It holds all that a page shows, so that a link shows the same.
import { useEffect, useState } from "./html.js";

const read = () => {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  return { parts, values: Object.fromEntries(new URLSearchParams(search)) };
};

export const useRoute = () => {
  const [route, setRoute] = useState(read);
  useEffect(() => {
    const changed = () => setRoute(read());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
};

export const link = (parts, values = {}) => {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const search = given.length ? "?" + new URLSearchParams(given) : "";
  return "#/" + parts.map(encodeURIComponent).join("/") + search;
};

// Changes what the page shows: without a new entry of the history, for what one types or toggles.
export const replace = (parts, values) => {
  history.replaceState(null, "", link(parts, values));
  dispatchEvent(new HashChangeEvent("hashchange"));
};

export const go = (parts, values) => {
  location.hash = link(parts, values);
};
