// What the explore pages share: their tabs, and the choice of task and filter, which are kept in the address.

import { get } from "../../parts/api.js";
import { h, put } from "../../parts/dom.js";
import { go, query, withQuery } from "../../parts/router.js";

const TABS = [["/explore", "Map"], ["/explore/slices", "Slices"], ["/explore/duplicates", "Near-duplicates"], ["/explore/coverage", "Coverage"]];

export function exploreTabs(here) {
  const tail = query().where ? `?${new URLSearchParams({ where: query().where })}` : "";
  return h("nav.tabs", { "aria-label": "Explore" }, TABS.map(([href, title]) => h("a", { href: href + tail, "aria-current": href === here ? "page" : null }, title)));
}

/** A field for the filter; Enter looks at the frames that match only. */
export function filterBox() {
  const input = h("input.grow", { type: "search", placeholder: "Only frames that match: weather:rain -site:depot", "aria-label": "Filter", value: query().where || "", spellcheck: "false" });
  const form = h("form.within", { role: "search", onsubmit: (event) => (event.preventDefault(), go(withQuery({ where: input.value.trim() }))) }, input);
  return { node: form, update: () => (input.value = query().where || "") };
}

/** A choice of whose labels count; hidden while there are fewer than two tasks. */
export function taskPicker() {
  const node = h("select", { "aria-label": "Labels of", hidden: true, onchange: () => go(withQuery({ task: node.value })) });
  get("/tasks").then((tasks) => {
    put(node, h("option", { value: "" }, "Labels of any task"), tasks.map((one) => h("option", { value: one.task_id }, one.task_id)));
    node.value = query().task || "";
    node.hidden = tasks.length < 2;
  }, () => {});
  return { node, update: () => (node.value = query().task || "") };
}

/** A page with the tabs above: `load(signal)` resolves to nodes, and is asked again whenever the address changes. */
export function explorePage(home, { path, title, controls = [], load, refused }) {
  document.title = `${title} · MLPL`;
  const body = h("div", null, h("div.wait", null, "…"));
  const filter = filterBox();
  home.append(h("div.scroll", null, h("div.column", null, h("div.title", null, exploreTabs(path), filter.node, controls.map((one) => one.node)), body)));
  let abort = new AbortController();
  async function update() {
    abort.abort();
    abort = new AbortController();
    const { signal } = abort;
    for (const one of [filter, ...controls]) one.update();
    body.classList.add("loading");
    try {
      const nodes = await load(signal);
      if (!signal.aborted) put(body, nodes);
    } catch (fault) {
      if (!signal.aborted) put(body, refused(fault));
    } finally {
      if (!signal.aborted) body.classList.remove("loading");
    }
  }
  update();
  return { update, close: () => abort.abort() };
}
