// A small line chart: a metric over model versions. Pure: values in, SVG out.

import { s } from "./dom.js";
import { figure } from "./format.js";

const WIDTH = 760;
const HEIGHT = 190;
const LEFT = 40;
const RIGHT = 24;
const TOP = 22;
const BOTTOM = 26;

/** `points` are oldest first: {value (0..1 or null), label, title, kept, current, href}. */
export function metricChart(points) {
  const drawn = points.map((point, i) => ({ ...point, i })).filter((point) => point.value !== null && point.value !== undefined);
  const values = drawn.map((point) => point.value);
  const [low, high, step] = range(Math.min(...values), Math.max(...values));
  const x = (i) => (points.length === 1 ? (LEFT + WIDTH - RIGHT) / 2 : LEFT + 14 + (i * (WIDTH - LEFT - RIGHT - 28)) / (points.length - 1));
  const y = (value) => TOP + ((high - value) * (HEIGHT - TOP - BOTTOM)) / (high - low);
  const lines = [];
  for (let at = low; at <= high + 1e-9; at += step) {
    lines.push(s("line.gridline", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(at), y2: y(at) }), s("text", { x: LEFT - 8, y: y(at) + 4, "text-anchor": "end" }, figure(at, 2)));
  }
  const every = Math.ceil(points.length / 12);
  return s("svg.chart", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Metric over models" },
    lines,
    s("polyline.run", { points: drawn.map((point) => `${x(point.i)},${y(point.value)}`).join(" ") }),
    drawn.map((point) => s("a", { href: point.href },
      s(`circle.dot${point.current ? ".current" : point.kept ? ".kept" : ""}`, { cx: x(point.i), cy: y(point.value), r: 4.5 }, s("title", null, point.title)),
      (point.current || points.length <= 8) && s("text.val", { x: x(point.i), y: y(point.value) - 10, "text-anchor": "middle" }, figure(point.value)))),
    points.map((point, i) => (i % every === 0 || i === points.length - 1) && s("text", { x: x(i), y: HEIGHT - 6, "text-anchor": "middle" }, point.label)));
}

/** Round bounds around the values, inside 0..1, and a step that gives three to six lines. */
function range(least, most) {
  const step = [0.02, 0.05, 0.1, 0.2, 0.25].find((one) => (most - least) / one <= 4) ?? 0.25;
  let low = Math.max(0, Math.floor(least / step - 0.2) * step);
  const high = Math.min(1, Math.max(Math.ceil(most / step + 0.2) * step, low + 2 * step));
  if (high - low < 2 * step) low = Math.max(0, high - 2 * step);
  return [low, high, step];
}
