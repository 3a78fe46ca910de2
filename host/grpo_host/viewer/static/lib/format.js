// Numbers, times and sizes as words.
export const MISSING = "–";

export const number = (value, digits = 3) => {
  if (value === null || value === undefined || Number.isNaN(value)) return MISSING;
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace("e+", "e").replace("-", "−");
  if (Number.isInteger(value)) return value.toLocaleString("en").replace("-", "−");
  return value.toLocaleString("en", { maximumFractionDigits: size >= 100 ? 1 : digits }).replace("-", "−");
};

// 0.825 as 0.825, so that a column lines up.
export const fixed = (value, digits = 2) =>
  typeof value === "number" ? value.toFixed(digits).replace("-", "−") : MISSING;

export const signed = (value, digits = 2) =>
  typeof value === "number" ? (value > 0 ? "+" : "") + fixed(value, digits) : MISSING;

export const percent = (share) => (typeof share === "number" ? `${Math.round(share * 100)} %` : MISSING);

export const size = (bytes) => {
  if (typeof bytes !== "number") return MISSING;
  for (const [unit, factor] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])
    if (bytes >= factor) return `${(bytes / factor).toFixed(bytes >= 10 * factor ? 0 : 1)} ${unit}`;
  return `${bytes} B`;
};

export const duration = (seconds) => {
  if (typeof seconds !== "number") return MISSING;
  if (seconds > 0 && seconds < 0.05) return "< 0.1 s";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
};

// Unix seconds, or a date that the server wrote.
export const date = (value) => {
  if (!value) return null;
  const found = new Date(typeof value === "number" ? value * 1000 : value);
  return Number.isNaN(found.getTime()) ? null : found;
};

export const ago = (value) => {
  const found = date(value);
  if (!found) return MISSING;
  const seconds = (Date.now() - found) / 1000;
  if (seconds < 90) return "just now";
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
};

// How far an index is; how long it takes is not known at once.
export const indexed = ({ share, seconds_left: left }) => percent(share) + (left ? `, ${duration(left)} left` : "");

// What a run that trains does once it has made all its steps.
export const ending = (steps, planned) => (planned && steps >= planned ? "measures and saves" : null);

export const plural = (count, one, many = one + "s") => `${number(count)} ${count === 1 ? one : many}`;

export const pretty = (text) => {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
};
