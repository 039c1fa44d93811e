// Numbers as small bars with a field for each end. Dragging over the bars chooses a range.

import { h } from "./dom.js";
import { count } from "./format.js";

/** `text` is the range as the filter says it, or "" for none; `change(text)` gets the new one, or null to take it away. */
export function histogram(key, { edges, counts }, text, change) {
  const most = Math.max(1, ...counts);
  const [low, high] = ends(text);
  const inside = (i) => !text || (edges[i + 1] > low && edges[i] < high);
  const bars = h("div.bars", { role: "img", "aria-label": `Histogram of ${key}` }, counts.map((n, i) =>
    h(inside(i) ? "i.in" : "i", { "data-bin": i, title: `${short(edges[i])} to ${short(edges[i + 1])}: ${count(n)}`, style: { "--share": n ? Math.max(0.04, n / most) : 0 } })));
  let from = null;
  const binOf = (event) => Number(document.elementFromPoint(event.clientX, bars.getBoundingClientRect().bottom - 2)?.dataset?.bin ?? NaN);
  bars.addEventListener("pointerdown", (event) => {
    from = binOf(event);
    bars.setPointerCapture(event.pointerId);
  });
  bars.addEventListener("pointermove", (event) => mark(binOf(event)));
  bars.addEventListener("pointerup", (event) => {
    const to = binOf(event);
    if (from !== null && !Number.isNaN(from) && !Number.isNaN(to)) change(written(edges[Math.min(from, to)], edges[Math.max(from, to) + 1]));
    from = null;
  });

  function mark(to) {
    if (from === null || Number.isNaN(from) || Number.isNaN(to)) return;
    for (const [i, bar] of [...bars.children].entries()) bar.classList.toggle("in", i >= Math.min(from, to) && i <= Math.max(from, to));
  }

  const field = (name, value, hint) => h("input", { type: "number", step: "any", value: Number.isFinite(value) ? String(value) : "", placeholder: short(hint), "aria-label": `${key} ${name}` });
  const least = field("from", low, edges[0]);
  const greatest = field("to", high, edges[edges.length - 1]);
  const apply = (event) => {
    event.preventDefault();
    change(least.value || greatest.value ? written(least.value, greatest.value) : null);
  };
  return h("form.numbers", { onsubmit: apply }, bars,
    h("div.span", null, least, h("span.faint", null, "to"), greatest,
      text ? h("button.quiet.small", { type: "button", title: "Any", "aria-label": `Any ${key}`, onclick: () => change(null) }, "×") : h("button.quiet.small", { type: "submit", title: "Apply", "aria-label": `Filter by ${key}` }, "→")));
}

const written = (low, high) => `${low === "" ? "" : Number(low)}..${high === "" ? "" : Number(high)}`;
const short = (x) => Number(Number(x).toPrecision(4)).toLocaleString("en-US");

/** "30..50", ">40", "<=3" as two ends. */
function ends(text) {
  const compared = /^(>=?|<=?)(.+)$/.exec(text);
  if (compared) return compared[1][0] === ">" ? [Number(compared[2]), Infinity] : [-Infinity, Number(compared[2])];
  const two = /^(.*)\.\.(.*)$/.exec(text);
  if (!two) return [-Infinity, Infinity];
  return [two[1] === "" ? -Infinity : Number(two[1]), two[2] === "" ? Infinity : Number(two[2])];
}
