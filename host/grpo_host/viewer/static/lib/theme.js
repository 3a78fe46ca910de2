// Light or dark: as the system has it until one chooses.
import { useEffect, useState } from "./html.js";

const KEY = "grpo-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");
const changed = new EventTarget();

export const theme = () => localStorage.getItem(KEY) ?? (dark.matches ? "dark" : "light");

const show = () => {
  document.documentElement.dataset.theme = theme();
  changed.dispatchEvent(new Event("change"));
};

export const toggleTheme = () => {
  localStorage.setItem(KEY, theme() === "dark" ? "light" : "dark");
  show();
};

dark.addEventListener("change", show);
show();

export const useTheme = () => {
  const [shown, setShown] = useState(theme);
  useEffect(() => {
    const update = () => setShown(theme());
    changed.addEventListener("change", update);
    return () => changed.removeEventListener("change", update);
  }, []);
  return shown;
};

export const colour = (name) => {
  const probe = document.createElement("i");
  probe.className = `probe ${name}`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
};
