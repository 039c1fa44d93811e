// Elements made by hand: the page's content-security policy forbids inline script and style, so nothing here goes through innerHTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Makes an element. `spec` is "tag.class.class"; `props` holds attributes, `on*` listeners, and `style` as an object of CSS properties.
 * True and false are written out for `aria-*` and `data-*`, else they say whether the attribute is there.
 * Children are nodes, strings, numbers, arrays of those; null, undefined and false are left out.
 */
export function h(spec, props, ...children) {
  const [tag, ...classes] = spec.split(".");
  return fill(document.createElement(tag || "div"), classes, props, children);
}

/** The same for SVG elements. */
export function s(spec, props, ...children) {
  const [tag, ...classes] = spec.split(".");
  return fill(document.createElementNS(SVG, tag), classes, props, children);
}

/** A value's name; of one that is a path, the end stays in sight where it is too long: drives of one archive begin alike. */
export const valueName = (name) => h(name.includes("/") ? "span.name.path" : "span.name", null, h("bdi", null, name));

/** Attributes whose truth is a word: "true" and "false" differ, and being there says nothing. */
const isWritten = (name) => name.startsWith("aria-") || name.startsWith("data-");

function fill(node, classes, props, children) {
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || (value === false && !isWritten(name))) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) node.style.setProperty(key, text);
    else if (name === "value" && "value" in node) node.value = value;
    else if (name === "checked") node.checked = value;
    else node.setAttribute(name, value === true && !isWritten(name) ? "" : value);
  }
  add(node, children);
  return node;
}

function add(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

/** Replaces everything inside `node`. */
export function put(node, ...children) {
  node.textContent = "";
  add(node, children);
  return node;
}

const PATHS = {
  glass: ["M7 12.5a5.5 5.5 0 1 0 0-11 5.5 5.5 0 0 0 0 11Z", "m11 11 3.5 3.5"],
  image: ["M2 3.5h12v9H2z", "m2.5 11 3.5-3.5 2.5 2.5 2-2 3 3"],
  cross: ["m4 4 8 8", "m12 4-8 8"],
  left: ["M10 3 5 8l5 5"],
  right: ["m6 3 5 5-5 5"],
  out: ["M6.5 3.5h-3v9h9v-3", "M9 3h4v4", "m13 3-5.5 5.5"],
};

/** A line icon, 16 units wide, in the colour of the text around it. */
export function icon(name, extra = "") {
  const strokes = PATHS[name].map((d) =>
    s("path", { d, fill: "none", stroke: "currentColor", "stroke-width": 1.5, "stroke-linecap": "round", "stroke-linejoin": "round" }));
  return s(`svg.${extra || "icn"}`, { viewBox: "0 0 16 16", width: 14, height: 14, "aria-hidden": "true" }, strokes);
}

let gone = null;

/** One line (a text, or nodes) at the foot of the window; errors stay longer. */
export function note(said, kind = "") {
  const home = document.getElementById("notes");
  const node = h(`div.note${kind ? `.${kind}` : ""}`, null, said);
  put(home, node);
  clearTimeout(gone);
  gone = setTimeout(() => node.remove(), kind === "bad" ? 9000 : 3500);
}

/** What a page shows when it has nothing: why, and the next command to run. */
export function emptiness(title, text, command, action) {
  return h("div.empty", null, h("h2", null, title), text && h("div", null, text), command && h("pre", null, command), action);
}
