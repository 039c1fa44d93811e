// What is left after each stage of a plan, as bars. The scale is logarithmic: a fleet and a batch are both to be seen.

import { h } from "./dom.js";
import { count, words } from "./format.js";

/** `stages` as the preview gives them: {name, frames, note}. */
export function funnel(stages) {
  const most = Math.max(1, ...stages.map((one) => one.frames));
  return h("ol.funnel", { "aria-label": "Frames left after each stage" }, stages.map(({ name, frames, note }) =>
    h("li", { title: note }, h("span.name", null, words(name)),
      h("span.track", null, h("i", { style: { "--share": frames ? Math.max(0.01, Math.log1p(frames) / Math.log1p(most)) : 0 } })),
      h("span.n", null, count(frames)), note && h("span.faint", null, note))));
}
