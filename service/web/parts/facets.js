// The filters beside the grid: every value with its count. A click adds it, the next turns it around, the third takes it away.

import { h, put, s, valueName } from "./dom.js";
import { count, words } from "./format.js";
import { histogram } from "./histogram.js";

const SHOWN = 8;
const FIRST = ["site", "camera", "vehicle"];
const LAST = ["drive"];
const QUIET = ["width", "height", "size_bytes", "underexposed", "overexposed"];
const store = window.localStorage;

/**
 * `change(key, text, next)` gets a value as filters write it and "on", "off" (turned around) or null (taken away), `span(key, text)` a range
 * of numbers such as "30..50" or null; `terms()` is the filter as it is now.
 */
export function facetPanel({ change, span, terms }) {
  const node = h("aside.facets", { "aria-label": "Filters" });
  const wide = new Set();
  const sought = new Map();
  let last = null;

  function draw(found) {
    last = found;
    const keys = order(found.facets);
    const top = node.scrollTop;
    put(node, keys.map((key) => group(key, found)), Object.keys(found.histograms ?? {}).sort().map((key) => numbers(key, found.histograms[key])));
    node.scrollTop = top;
  }

  function group(key, { facets, texts }) {
    const states = statesOf(key, terms());
    const written = (name) => (Object.hasOwn(texts[key], name) ? texts[key][name] : name);
    const values = Object.entries(facets[key]).map(([name, n]) => ({ name, n, text: written(name) }));
    for (const [text, { name }] of states) {
      if (!values.some((one) => one.text === text) && !text.endsWith("*")) values.push({ name, n: 0, text });
    }
    const most = Math.max(1, ...values.map(({ n }) => n));
    const needle = (sought.get(key) || "").toLowerCase();
    const matching = needle ? values.filter(({ name }) => name.toLowerCase().includes(needle)) : values;
    const shown = wide.has(key) || needle ? matching : matching.filter(({ text }, i) => i < SHOWN || states.has(text));
    const isShut = (store.getItem(`facet.${key}`) ?? (LAST.includes(key) || isWordy(facets[key]) || isSame(key, facets[key]) ? "shut" : "open")) === "shut" && !states.size;
    const title = h("button", { "aria-expanded": !isShut, onclick: () => (store.setItem(`facet.${key}`, isShut ? "open" : "shut"), draw(last)) },
      s("svg.turn", { viewBox: "0 0 8 8" }, s("path", { d: "M2 1l4 3-4 3z", fill: "currentColor" })), words(key), h("span.n", null, count(values.length)));
    return h(isShut ? "div.facet.shut" : "div.facet", { "data-key": key }, title, h("div.values", null,
      values.length > 20 && find(key),
      shown.map((one) => value(key, one, most, states.get(one.text)?.state)),
      !needle && matching.length > shown.length && h("button.quiet.more", { onclick: () => (wide.add(key), draw(last)) }, `${matching.length - shown.length} more`),
      !needle && wide.has(key) && matching.length > SHOWN && h("button.quiet.more", { onclick: () => (wide.delete(key), draw(last)) }, "fewer")));
  }

  function numbers(key, found) {
    const mine = terms().find((one) => one.facet === key && !one.negated);
    const isShut = (store.getItem(`facet.${key}`) ?? (QUIET.includes(key) ? "shut" : "open")) === "shut" && !mine;
    const title = h("button", { "aria-expanded": !isShut, onclick: () => (store.setItem(`facet.${key}`, isShut ? "open" : "shut"), draw(last)) },
      s("svg.turn", { viewBox: "0 0 8 8" }, s("path", { d: "M2 1l4 3-4 3z", fill: "currentColor" })), words(key));
    return h(isShut ? "div.facet.shut" : "div.facet", { "data-key": key }, title,
      h("div.values", null, histogram(key, found, mine?.values[0] ?? "", (text) => span(key, text))));
  }

  function find(key) {
    const input = h("input.find", { placeholder: `Find ${words(key)}`, value: sought.get(key) || "", "aria-label": `Find ${words(key)}` });
    input.addEventListener("input", () => {
      sought.set(key, input.value);
      draw(last);
      const again = node.querySelector(`[data-key="${CSS.escape(key)}"] .find`);
      again?.focus();
      again?.setSelectionRange(again.value.length, again.value.length);
    });
    return input;
  }

  function value(key, { name, n, text }, most, state) {
    const hint = state === "on" ? "Click to leave these out" : state === "off" ? "Click to remove the filter" : "Click to show only these";
    const classes = [state, n === 0 && "zero"].filter(Boolean).map((one) => `.${one}`).join("");
    return h(`button.value${classes}`, { title: `${name}: ${hint}`, "aria-pressed": state === "on", style: { "--share": n / most }, onclick: () => change(key, text, next(key, text)) },
      valueName(name), h("span.count", null, state === "off" ? `−${count(n)}` : count(n)));
  }

  /** What a click on a value leads to, from the filter as it is at that moment: the counts may still be on their way. */
  function next(key, text) {
    const state = statesOf(key, terms()).get(text)?.state;
    return state === "on" ? "off" : state === "off" ? null : "on";
  }

  return { node, draw, redraw: () => last && draw(last) };
}

/** A value as filters write it -> its name and "on" or "off", for one key. */
function statesOf(key, terms) {
  const states = new Map();
  for (const term of terms) {
    if (term.facet !== key) continue;
    term.texts.forEach((text, i) => states.set(text, { name: term.values[i], state: term.negated ? "off" : "on" }));
  }
  return states;
}

/** Where the frames come from first, then what describes them in a word or two; keys with one or very many values, and sentences, last. */
function order(facets) {
  const place = (key) => {
    if (FIRST.includes(key)) return FIRST.indexOf(key);
    if (isWordy(facets[key])) return 300;
    if (LAST.includes(key)) return 200;
    if (isSame(key, facets[key])) return 250;
    return Object.keys(facets[key]).length > 20 ? 150 : 100;
  };
  return Object.keys(facets).sort((a, b) => place(a) - place(b) || a.localeCompare(b));
}

/** All frames in sight say the same, so there is nothing to choose. */
function isSame(key, counts) {
  return !FIRST.includes(key) && Object.keys(counts).length === 1;
}

function isWordy(counts) {
  const names = Object.keys(counts);
  return names.reduce((sum, name) => sum + name.length, 0) / Math.max(1, names.length) > 22;
}

/** The filter text after one value, `text` as filters write it, was set to "on", "off" or null. `terms` is the filter as the server took it apart. */
export function changedWhere(terms, key, text, next) {
  const kept = [];
  let on = [];
  for (const term of terms) {
    if (term.facet !== key) {
      kept.push(term.text);
      continue;
    }
    const others = term.texts.filter((one) => one !== text);
    if (!term.negated) on = on.concat(others);
    else if (others.length) kept.push(`-${key}:${others.join(",")}`);
  }
  if (next === "on") on.push(text);
  if (on.length) kept.push(`${key}:${on.join(",")}`);
  if (next === "off") kept.push(`-${key}:${text}`);
  return kept.join(" ");
}

/** The filter text after the numbers of a key were set to a range, or to any when `text` is null. */
export function rangedWhere(terms, key, text) {
  const kept = terms.filter((one) => one.facet !== key).map((one) => one.text);
  return (text ? [...kept, `${key}:${text}`] : kept).join(" ");
}

/** A value as filters write it, in quotes where it would be read as something else. */
export const quoted = (value) => (/^[^\s\p{C}\p{Z}",*\\<>]+$/u.test(value) && !value.includes("..") ? value : `"${value.replace(/[\\"]/g, "\\$&")}"`);
