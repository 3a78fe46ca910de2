// One chart by uPlot: lines over steps, a band, held-out points with intervals. By pointer and by arrow keys.
import { html, useEffect, useMemo, useRef, useState } from "../lib/html.js";
import { number } from "../lib/format.js";
import { colour, useTheme } from "../lib/theme.js";

const HEIGHT = 190;
const DASHES = [[], [6, 4], [2, 3], [10, 4, 2, 4]];
export const COLOURS = 8;

// The held-out measurements, drawn on top: a dot, and a bar as long as its interval.
const drawPoints = (points, paint) => (plot) => {
  const { ctx } = plot;
  ctx.save();
  for (const point of points) {
    const [x, y] = [plot.valToPos(point.step, "x", true), plot.valToPos(point.value, "y", true)];
    ctx.strokeStyle = ctx.fillStyle = paint(point);
    ctx.lineWidth = 1.5 * devicePixelRatio;
    if (typeof point.low === "number") {
      ctx.beginPath();
      ctx.moveTo(x, plot.valToPos(point.low, "y", true));
      ctx.lineTo(x, plot.valToPos(point.high, "y", true));
      ctx.stroke();
    }
    ctx.beginPath();
    ctx.arc(x, y, 4 * devicePixelRatio, 0, 7);
    ctx.fill();
  }
  ctx.restore();
};

// As many digits as say a tick exactly: two for steps of 0.25.
export const tickText = (tick, apart) => {
  let digits = 0;
  while (digits < 6 && Math.abs(apart - Number(apart.toFixed(digits))) > apart / 1000) digits += 1;
  return digits > 5 || Math.abs(tick) >= 1e5 ? number(tick) : tick.toFixed(digits).replace("-", "−");
};

const optionsOf = ({ lines, bands, points, width, share, onStep }, setAt) => {
  const text = colour("ink-dim");
  const grid = colour("ink-line");
  const paint = (index) => colour(`line-${index % COLOURS}`);
  const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 }, font: "11px system-ui" };
  const all = [...lines, ...bands.flatMap((band) => [{ ...band, edge: true }, { ...band, edge: true }])];
  const extremes = points.flatMap((point) => [point.value, point.low, point.high]).filter((x) => typeof x === "number");
  return {
    width,
    height: HEIGHT,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { sync: { key: "step", setSeries: false }, drag: { x: true, y: false }, points: { size: 6 }, y: false },
    scales: {
      x: { time: false },
      y: {
        range: (_, low, high) => {
          let [from, to] = [Math.min(low ?? Infinity, ...extremes), Math.max(high ?? -Infinity, ...extremes)];
          if (!Number.isFinite(from)) [from, to] = [0, 1];
          if (share) [from, to] = [Math.min(0, from), Math.max(to, 0.05)];
          // What hardly moves is drawn flat: otherwise the last digits of a ratio of 1 would fill the chart.
          const room = Math.max((to - from) * 0.06, Math.abs(to) * (to === from ? 0.1 : 0.001)) || 0.1;
          return [share ? from - room / 4 : from - room, to + room];
        },
      },
    },
    axes: [
      { ...axis, size: 28, space: 60, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] },
      { ...axis, size: 52, values: (_, ticks, _axis, _space, apart) => ticks.map((tick) => tickText(tick, apart)) },
    ],
    series: [{}, ...all.map((line) => ({
      stroke: line.edge ? "transparent" : paint(line.colour),
      width: line.edge ? 0 : 1.8,
      dash: DASHES[(line.dash ?? 0) % DASHES.length],
      spanGaps: true,
      points: { show: line.edge ? false : undefined, size: 4 },
    }))],
    bands: bands.map((band, index) => ({
      series: [lines.length + 2 + index * 2, lines.length + 1 + index * 2],
      fill: paint(band.colour).replace(/^rgb\((.*)\)$/, "rgba($1, 0.16)"),
    })),
    hooks: {
      draw: [drawPoints(points, (point) => paint(point.colour ?? 0))],
      setCursor: [(plot) => setAt(plot.cursor.idx ?? null)],
      ready: [(plot) => plot.over.addEventListener("dblclick", () => plot.cursor.idx !== null && onStep?.(plot.data[0][plot.cursor.idx]))],
    },
  };
};

const useWidth = (place) => {
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const seen = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    seen.observe(place.current);
    return () => seen.disconnect();
  }, []);
  return width;
};

const summary = (title, lines) =>
  `${title}. ` + lines.map((line) => {
    const values = line.values.filter((value) => typeof value === "number");
    return values.length ? `${line.label}: from ${number(values[0])} to ${number(values.at(-1))}` : `${line.label}: nothing yet`;
  }).join("; ") + ". Arrow keys go from step to step, Enter opens its trajectories.";

export const Chart = ({ title, steps, lines, bands = [], points = [], share, onStep, id, marked }) => {
  const place = useRef();
  const plot = useRef();
  const [at, setAt] = useState(null);
  const width = useWidth(place);
  const theme = useTheme();
  const data = useMemo(() => [steps, ...lines.map((line) => line.values), ...bands.flatMap((band) => [band.low, band.high])], [steps, lines, bands]);
  const shape = [theme, lines.length, bands.length, JSON.stringify(points), Boolean(width)].join();
  useEffect(() => {
    if (!width) return undefined;
    const made = new uPlot(optionsOf({ lines, bands, points, width, share, onStep }, setAt), data, place.current);
    plot.current = made;
    return () => { made.destroy(); plot.current = null; };
  }, [shape]);
  useEffect(() => plot.current?.setData(data), [data]);
  useEffect(() => { width && plot.current?.setSize({ width, height: HEIGHT }); }, [width]);
  const index = at ?? steps.length - 1;
  const move = (event) => {
    const last = steps.length - 1;
    const to = { ArrowLeft: Math.max(0, index - 1), ArrowRight: Math.min(last, index + 1), Home: 0, End: last }[event.key];
    if (event.key === "Enter") onStep?.(steps[index]);
    if (to === undefined || !plot.current) return;
    event.preventDefault();
    plot.current.setCursor({ left: plot.current.valToPos(steps[to], "x"), top: 0 });
    setAt(to);
  };
  return html`<figure class=${`chart${marked ? " marked" : ""}`} id=${id}>
    <figcaption>${title}</figcaption>
    <div class="plot" ref=${place} tabindex="0" role="img" aria-label=${summary(title, lines)} onKeyDown=${move}></div>
    <div class="legend">${steps.length > 0 && html`<span class="at">step ${steps[index]}</span>`}
      ${lines.map((line) => html`<span class=${`key line-${line.colour % COLOURS} dash-${(line.dash ?? 0) % 4}`} title=${line.name}><i></i>${line.label} <b>${number(line.values[index])}</b></span>`)}
      ${points.length > 0 && html`<span class="key held"><i></i>held-out</span>`}</div>
  </figure>`;
};
