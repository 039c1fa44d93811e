// All concepts: what people marked, and what can be done with it.

import { get, remove } from "../parts/api.js";
import { emptiness, h, note, put } from "../parts/dom.js";
import { refusal } from "../parts/fault.js";
import { ago, count, moment } from "../parts/format.js";
import { conceptPath, taughtConcept, teach } from "../parts/marks.js";
import { searchUrl, tile } from "../parts/tile.js";

const SHOWN = 6;

export function conceptsPage(home) {
  document.title = "Concepts · MLPL";
  const list = h("div", null, h("div.wait", null, "…"));
  home.append(h("div.scroll", null, h("div.column", null,
    h("div.title", null, h("h1", null, "Concepts"), h("span.dim", null, "Marked on a handful of frames, ranked over the fleet")), list)));

  async function refresh() {
    try {
      const all = await get("/concepts");
      put(list, all.length ? all.map((one) => card(one, refresh)) : nothing());
    } catch (fault) {
      put(list, refusal(fault));
    }
  }

  refresh();
  return {};
}

function card(concept, changed) {
  const { name, yes, no } = concept;
  return h("article.card", { "data-concept": name },
    h("div.title", null, h("h2", null, h("a", { href: conceptPath(name) }, name)),
      h("span.dim", { title: moment(concept.changed_at) }, `${count(yes.length)} yes, ${count(no.length)} no · ${ago(concept.changed_at)}`),
      taughtConcept() === name && h("span.pill.good", { title: "y and n mark for it" }, "being taught"), h("span.grow"),
      h("a.button.small", { href: searchUrl(`concept:${name}`, { sort: `-concept:${name}` }) }, "Search"),
      h("button.small.quiet.danger", { onclick: () => forget(name, changed) }, "Delete")),
    h("div.strip", null, yes.slice(0, SHOWN).map((id) => tile(id, { kind: "yes" })), no.slice(0, 2).map((id) => tile(id, { kind: "no" }))));
}

/** Deletes a concept after asking; `done` follows. */
export async function forget(name, done) {
  if (!window.confirm(`Forget ${name}? Its marks go; searches and plans that name it stop working.`)) return;
  try {
    await remove(conceptPath(name));
    if (taughtConcept() === name) teach("");
    done();
  } catch (fault) {
    note(fault.message, "bad");
  }
}

function nothing() {
  return emptiness("No concepts yet", "On the search page, press y on a frame that shows what you look for and n on one that does not. Or run:",
    "mlpl concept create NAME --yes FRAME --no FRAME", h("a.button", { href: "/" }, "Go to the search"));
}
