// Coverage: what the fleet has of each combination of values, what of it is labelled, and where labels are lacking most.

import { get } from "../../parts/api.js";
import { emptiness, h, put } from "../../parts/dom.js";
import { refusal } from "../../parts/fault.js";
import { quoted } from "../../parts/facets.js";
import { count, figure, percent, plural, words } from "../../parts/format.js";
import { go, query, withQuery } from "../../parts/router.js";
import { searchUrl } from "../../parts/tile.js";
import { explorePage, taskPicker } from "./frame.js";

const MOST_CELLS = 500;
const MOST_LINES = 100;
const HOUR = "hour";
const MOST_VALUES = 40;

export function coveragePage(home) {
  const keys = keyPicker();
  return explorePage(home, { path: "/explore/coverage", title: "Coverage", controls: [keys, taskPicker()], refused: refusal, load: (signal) => load(signal, keys) });
}

/** Two choices of a key; what they offer comes with the facets. */
function keyPicker() {
  const pick = (name) => h("select", { "aria-label": name, onchange: chosen });
  const [first, second] = [pick("Rows"), pick("Columns")];
  function chosen() {
    return go(withQuery({ by: [...new Set([first.value, second.value].filter(Boolean))].join(",") }));
  }
  const node = h("span.crossed", { hidden: true }, first, h("span.faint", null, "×"), second);
  return {
    node,
    update: () => {},
    offer(keys, by) {
      node.hidden = false;
      put(first, keys.map((key) => h("option", { value: key }, words(key))));
      put(second, h("option", { value: "" }, "–"), keys.map((key) => h("option", { value: key }, words(key))));
      [first.value, second.value] = [by[0] ?? "", by[1] ?? ""];
    },
  };
}

async function load(signal, picker) {
  const { where, task, by } = query();
  const { facets, total } = await get("/facets", { where }, { signal });
  if (!total && !where) return emptiness("No frames yet", "Take in a folder of images with what is known of them beside:", "mlpl ingest /path/to/images");
  const keys = Object.keys(facets).filter((key) => within(Object.keys(facets[key]).length)).sort().concat(HOUR);
  const crossed = (by || usual(keys).join(",")).split(",").filter(Boolean);
  picker.offer([...new Set([...keys, ...crossed])], crossed);
  const found = await get("/coverage", { by: crossed.join(","), where, task, limit: MOST_CELLS }, { signal });
  if (!found.cells.length) return emptiness("No frame matches", "Change the filter above.");
  const labelled = found.cells.some((cell) => cell.labelled);
  // A hole counts as hot when it is large among the holes and no trifle next to all labels.
  const top = Math.max(1, 0.05 * found.cells.reduce((sum, cell) => sum + cell.labelled, 0), ...found.cells.map((cell) => cell.hole));
  return [
    h("p.dim", null, labelled ? "The warmer a cell, the more labels it lacks to be labelled as the fleet is spread. A click finds its unlabelled frames."
      : "Nothing is labelled yet, so every cell is as far from its share as it can be. A click finds a cell's frames."),
    found.by.length === 2 && h("div.card", null, matrix(found, { where: where || "", top })),
    h("div.card", null, lines(found, { where: where || "" })),
  ];
}

const within = (values) => values > 1 && values <= MOST_VALUES;
const usual = (keys) => {
  const known = ["timeofday", "weather", "scene", "site", "camera"].filter((key) => keys.includes(key));
  return [...known, ...keys.filter((key) => !known.includes(key))].slice(0, 2);
};

/** A table of two keys; rows and columns with the biggest holes come first. Shape: first key by second. */
function matrix({ by, cells }, { where, top }) {
  const order = (place) => [...new Set(cells.map((cell) => cell.values[place]))]; // cells come biggest hole first
  const at = new Map(cells.map((cell) => [JSON.stringify(cell.values), cell]));
  const columns = order(1);
  return h("table.heat", { "aria-label": `${words(by[0])} by ${words(by[1])}` },
    h("thead", null, h("tr", null, h("th", null, `${words(by[0])} \\ ${words(by[1])}`), columns.map((value) => h("th.num", null, named(value))))),
    h("tbody", null, order(0).map((row) => h("tr", null, h("th", null, named(row)), columns.map((column) => {
      const cell = at.get(JSON.stringify([row, column]));
      return h("td", { style: { "--heat": cell ? Math.max(0, cell.hole / top) : 0 } }, cell ? link(by, cell, where, [h("b", null, count(cell.frames)), h("span", null, `${count(cell.labelled)} labelled`)]) : h("span.none", null, "–"));
    })))));
}

function lines({ by, cells, total }, { where }) {
  return [h("table", { "aria-label": "Biggest holes first" },
    h("thead", null, h("tr", null, by.map((key) => h("th", null, words(key))), ["frames", "of fleet", "labelled", "of labels", "lacks"].map((name) => h("th.num", null, name)), h("th"))),
    h("tbody", null, cells.slice(0, MOST_LINES).map((cell) => h("tr", null, cell.values.map((value) => h("td", null, named(value))),
      [count(cell.frames), percent(cell.share, 1), count(cell.labelled), percent(cell.labelled_share, 1), cell.hole > 0 ? figure(cell.hole, 1) : "–"].map((text) => h("td.num", null, text)),
      h("td.num", null, link(by, cell, where, "Find unlabelled")))))),
  total > MOST_LINES && h("p.faint", null, `The first ${MOST_LINES} of ${plural(total, "combination")}.`)];
}

const named = (value) => value ?? "none";

/** Leads to the unlabelled frames of a cell. */
function link(by, { values, frames, labelled }, where, content) {
  const terms = by.map((key, i) => (values[i] === null ? `-has:${key}` : `${key}:${quoted(values[i])}`));
  const all = [where, ...terms, labelled > 0 && "-has:label"].filter(Boolean).join(" ");
  return h("a", { href: searchUrl(all), title: `${count(frames - labelled)} unlabelled` }, content);
}
