// Near-duplicates: groups of frames that show the same, each with the one to keep.

import { get } from "../../parts/api.js";
import { emptiness, h, put } from "../../parts/dom.js";
import { refusal } from "../../parts/fault.js";
import { count, percent, plural } from "../../parts/format.js";
import { go, query, withQuery } from "../../parts/router.js";
import { searchUrl, tile } from "../../parts/tile.js";
import { explorePage } from "./frame.js";

const PAGE = 30;
const SHOWN = 12;

export function duplicatesPage(home) {
  return explorePage(home, { path: "/explore/duplicates", title: "Near-duplicates", controls: [likeness(), drives()], refused: refusal, load });
}

function likeness() {
  const node = h("input", { type: "number", min: 0.5, max: 1, step: "any", placeholder: "auto", onchange: () => go(withQuery({ threshold: node.value })), "aria-label": "Likeness from which frames are duplicates" });
  return { node: h("label.switch", { title: "Cosine similarity from which frames are duplicates; left empty, what frames of different drives hardly reach" }, "Likeness from", node), update: () => (node.value = query().threshold || "") };
}

function drives() {
  const node = h("input", { type: "checkbox", onchange: () => go(withQuery({ within: node.checked ? "drive" : null })) });
  return { node: h("label.switch", null, node, "Within drives"), update: () => (node.checked = query().within === "drive") };
}

async function page(offset, signal) {
  const { where, threshold, within } = query();
  // Without thresholds of one's own the answer is the survey's, which is there at once.
  return get("/duplicates", { where, threshold, within_drives: within === "drive" || null, limit: PAGE, offset }, { signal });
}

async function load(signal) {
  const found = await page(0, signal);
  if (!found.total) return emptiness("No near-duplicates", `None among ${plural(found.frames, "frame")}. Lower the likeness to see nearer to alike ones.`);
  const list = h("div", null, found.groups.map(strip));
  let shown = found.groups.length;
  const fault = h("span.wrong", { role: "alert" });
  const more = h("button", { hidden: shown >= found.total, onclick: next }, "More");
  async function next() {
    more.disabled = true;
    put(fault);
    try {
      const further = await page(shown, signal);
      list.append(...further.groups.map(strip));
      shown += further.groups.length;
      more.hidden = shown >= found.total || !further.groups.length;
    } catch (reason) {
      if (!signal.aborted) put(fault, reason.message);
    }
    more.disabled = false;
  }
  return [h("div.dim.sum", { id: "sum" }, h("b", null, plural(found.total, "group")), ` in ${plural(found.frames, "frame")} · ${count(found.kept)} (${percent(found.kept / Math.max(1, found.frames))}) remain when duplicates go`,
    h("span.faint", { title: found.threshold_basis }, ` · alike from ${Number(found.threshold.toFixed(4))}`),
    found.skipped > 0 && h("span.faint", null, ` · ${count(found.skipped)} have neither a vector nor a hash yet`),
    found.waiting > 0 && h("span.faint", null, ` · ${count(found.waiting)} not looked at yet`)), list, h("div.after", null, more, fault)];
}

function strip({ keep, duplicates }) {
  return h("article.card.group", { "data-keep": keep },
    h("div.strip", null, tile(keep, { kind: "keeper", badge: "keep" }), duplicates.slice(0, SHOWN).map((id) => tile(id)),
      duplicates.length > SHOWN && h("a.more", { href: searchUrl("", { like: keep }) }, `+${count(duplicates.length - SHOWN)}`)),
    h("div.faint", null, `${plural(duplicates.length + 1, "frame")} alike`));
}
