// The map: every frame a point, likeness by nearness. Colour by a key, hover for the picture, click for the frame, lasso for many.

import { get, post, previewUrl } from "../../parts/api.js";
import { openBatchDialog } from "../../parts/batch_dialog.js";
import { openDetail } from "../../parts/detail.js";
import { emptiness, h, put, valueName } from "../../parts/dom.js";
import { refusal } from "../../parts/fault.js";
import { count, plural, words } from "../../parts/format.js";
import { markFrame } from "../../parts/marks.js";
import { NONE, PLAIN, nameColours, rampColours, stepped } from "../../parts/palette.js";
import { go, query, withQuery } from "../../parts/router.js";
import { Scatter } from "../../parts/scatter.js";
import { searchUrl, tile } from "../../parts/tile.js";
import { exploreTabs, filterBox } from "./frame.js";

const MOST_POINTS = 50_000;
const MOST_HAND_PICKED = 500;
const AGAIN_MS = 4000; // the map may be on its way
const LABELLED = "has:label";
const BEYOND = { slice: "kind of scene (slice)", [LABELLED]: "labelled or not", rarity: "rarity", novelty: "novelty", uncertain: "uncertainty of the model" };
const USUAL = ["timeofday", "weather", "scene", "site"];

export function mapPage(home) {
  document.title = "Map · MLPL";
  const page = new MapPage(home);
  page.update(query());
  return page;
}

/** Few enough numbers come as names; they are still better told apart by a ramp. */
const isNumeric = (values) => values.length > 6 && values.every((one) => one.trim() !== "" && Number.isFinite(Number(one)));

class MapPage {
  constructor(home) {
    this.abort = new AbortController();
    this.names = new Map(); // row -> frame id
    this.found = null;
    this.plot = new Scatter({ hover: (i, x, y) => this.hover(i, x, y), pick: (i) => this.pick(i), lassoed: (corners) => this.lassoed(corners), moved: () => this.moved() });
    this.filter = filterBox();
    this.colour = h("select", { "aria-label": "Colour by", onchange: () => go(withQuery({ color: this.colour.value })) });
    this.lasso = h("button.small", { title: "Draw around frames (hold Shift to do it once)", "aria-pressed": false, onclick: () => this.setLasso(!this.plot.isLasso) }, "Lasso");
    this.side = h("aside.beside", { "aria-label": "Legend and selection" });
    this.blank = h("div.blank", { hidden: true });
    this.peek = h("div.peek", { hidden: true });
    this.said = h("span.dim", { id: "points" });
    home.append(h("div.map", null,
      h("div.title", null, exploreTabs("/explore"), this.filter.node, h("label.switch", null, "Colour by", this.colour), this.lasso,
        h("button.quiet.small", { title: "0", onclick: () => this.plot.fit() }, "Show all"), this.said),
      h("div.plot", null, this.plot.node, this.blank, this.peek), this.side));
    this.listener = (event) => this.key(event);
    document.addEventListener("keydown", this.listener);
  }

  close() {
    this.abort.abort();
    for (const one of [this.timer, this.again, this.peeking]) clearTimeout(one);
    this.detail?.node.remove();
    this.plot.close();
    document.removeEventListener("keydown", this.listener);
  }

  async update(asked) {
    this.filter.update();
    this.showFrame(asked.frame || null);
    const key = JSON.stringify([asked.where || "", asked.color || ""]);
    if (key === this.shown) return;
    this.shown = key;
    clearTimeout(this.again);
    this.abort.abort();
    this.abort = new AbortController();
    const { signal } = this.abort;
    try {
      await this.offer(asked, signal);
      await this.load(signal);
      this.legend();
    } catch (fault) {
      if (!signal.aborted) this.refuse(fault);
    }
  }

  /** What points can be coloured by. */
  async offer({ where, color }, signal) {
    const [facets, concepts] = await Promise.all([get("/facets", { where }, { signal }), get("/concepts", null, { signal }).catch(() => [])]);
    const keys = [...Object.keys(facets.facets), ...Object.keys(facets.histograms)];
    const several = Object.entries(facets.facets).filter(([, values]) => Object.keys(values).length > 1).map(([name]) => name);
    const usual = USUAL.find((name) => several.includes(name)) ?? several[0] ?? "";
    const choices = [["", "nothing"], ...[...new Set(keys)].sort().map((name) => [name, words(name)]), ...Object.entries(BEYOND), ...concepts.map((one) => [`concept:${one.name}`, `concept ${one.name}`])];
    this.chosen = color ?? usual;
    if (!choices.some(([value]) => value === this.chosen)) choices.push([this.chosen, this.chosen]);
    put(this.colour, choices.map(([value, title]) => h("option", { value }, title)));
    this.colour.value = this.chosen;
  }

  // ---- points

  async load(signal, box = null) {
    const { where } = query();
    const isKey = this.chosen && this.chosen !== LABELLED;
    const asked = { where, limit: MOST_POINTS, box };
    const [found, labelled] = await Promise.all([
      get("/map", { ...asked, color: isKey ? this.chosen : null }, { signal }),
      this.chosen === LABELLED ? get("/map", { ...asked, where: [where, LABELLED].filter(Boolean).join(" ") }, { signal }) : null,
    ]);
    if (signal.aborted) return;
    this.found = found;
    this.boxed = box;
    this.blank.hidden = found.rows.length > 0;
    if (!found.rows.length) {
      put(this.blank, this.nothing(found, where));
      this.again = setTimeout(() => ((this.shown = null), this.update(query())), AGAIN_MS);
    }
    put(this.said, found.total > found.rows.length ? `${count(found.rows.length)} of ${plural(found.total, "frame")}` : plural(found.total, "frame"),
      found.waiting > 0 && h("span.faint", { title: "`mlpl map`, or `mlpl serve` by itself" }, ` · ${count(found.waiting)} not on it yet`));
    const dimmed = this.plot.dimmed;
    this.plot.setPoints(found.x, found.y);
    this.paint(found, labelled && new Set(labelled.rows));
    if (box) this.plot.setDimmed(dimmed);
  }

  paint({ rows, color }, labelled) {
    this.scale = null;
    if (labelled) {
      const codes = Int16Array.from(rows, (row) => (labelled.has(row) ? 0 : 1));
      this.colours = ["#6fd3b0", NONE];
      const n = codes.reduce((sum, code) => sum + (code === 0), 0);
      this.entries = [["labelled", n], ["not labelled", rows.length - n]];
      this.plot.setColours(codes, this.colours);
    } else if (color?.codes && !isNumeric(color.values)) {
      this.colours = nameColours(color.values.length);
      this.entries = color.values.map((name, i) => [name, color.counts[i]]);
      this.plot.setColours(Int16Array.from(color.codes), this.colours);
    } else if (color) {
      const { codes, low, high } = stepped(color.numbers ?? Array.from(color.codes, (code) => (code < 0 ? null : Number(color.values[code]))));
      this.colours = rampColours();
      this.entries = [];
      this.scale = [low, high];
      this.plot.setColours(codes, this.colours);
    } else {
      this.colours = [PLAIN];
      this.entries = [];
      this.plot.setColours(new Int16Array(rows.length), this.colours);
    }
  }

  nothing({ projection_id: id }, where) {
    if (id && where) return emptiness("No frame matches", "Change the filter above.");
    return emptiness("No map yet", "Frames that look alike lie together on it. It needs frames with vectors:", "mlpl embed && mlpl map");
  }

  refuse(fault) {
    this.blank.hidden = false;
    this.plot.setPoints([], []);
    put(this.side);
    put(this.said);
    put(this.blank, refusal(fault));
  }

  /** Of a large fleet only a sample is shown: looking closer shows more of what is there. */
  moved() {
    this.hover(null);
    clearTimeout(this.timer);
    if (!this.found || (this.found.total <= this.found.rows.length && !this.boxed)) return;
    const { signal } = this.abort;
    const box = this.plot.zoom > 1.05 ? this.plot.box.map((one) => one.toFixed(4)).join(",") : null;
    if (box === this.boxed) return;
    this.timer = setTimeout(() => this.load(signal, box).catch((fault) => signal.aborted || this.refuse(fault)), 250);
  }

  // ---- beside the map

  legend() {
    if (!this.found?.rows.length) return put(this.side);
    const dimmed = this.plot.dimmed;
    const flip = (code) => {
      const next = new Set(this.plot.dimmed);
      if (!next.delete(code)) next.add(code);
      this.plot.setDimmed(next);
      this.legend();
    };
    return put(this.side, h("h3", null, this.chosen ? words(BEYOND[this.chosen] ?? this.chosen) : "Legend"),
      this.scale && this.ramp(),
      this.entries.map(([name, n], code) => h(dimmed.has(code) ? "button.entry.off" : "button.entry", { "aria-pressed": !dimmed.has(code), title: `${name}: click to step back, or forth`, onclick: () => flip(code) },
        h("i", { style: { background: this.colours[code] } }), valueName(name), h("span.count", null, count(n)))),
      h("p.faint", null, "Drag to move, wheel to zoom, point at a dot for its picture, click to open it. Lasso, or Shift and drag, takes many."));
  }

  ramp() {
    const [low, high] = this.scale;
    if (low === null) return h("p.dim", null, "No frame here has this number.");
    const short = (x) => Number(Number(x).toPrecision(4)).toLocaleString("en-US");
    return h("div.ramp", null, h("div", { style: { background: `linear-gradient(to right, ${this.colours.join(",")})` } }), h("span", null, short(low)), h("span", null, short(high)));
  }

  setLasso(on) {
    this.plot.setLasso(on);
    this.lasso.setAttribute("aria-pressed", on);
  }

  async lassoed(corners) {
    this.setLasso(false);
    const { signal } = this.abort;
    const { where = "" } = query();
    put(this.side, h("div.wait", null, "…"));
    try {
      const found = await post("/map/select", { polygon: corners, where, limit: 0, frames: MOST_HAND_PICKED }, { signal });
      if (!signal.aborted) this.inside(found, [where, found.where].filter(Boolean).join(" "));
    } catch (fault) {
      if (!signal.aborted) put(this.side, refusal(fault, h("button", { onclick: () => this.clear() }, "Back to the legend")));
    }
  }

  inside({ total, frame_ids: ids }, where) {
    put(this.side, h("h3", { id: "inside" }, `${plural(total, "frame")} inside`),
      h("div.acts", null,
        total > 0 && h("a.button.small", { href: searchUrl(where) }, "Search these"),
        total > 0 && h("button.small.primary", { onclick: () => openBatchDialog({ frameIds: total <= ids.length ? ids : [], where, total, done: () => this.clear() }) }, "Make a batch…"),
        h("button.small.quiet", { onclick: () => this.clear() }, "Clear")),
      h("div.inside", null, ids.slice(0, 60).map((id) => tile(id, { open: () => go(withQuery({ frame: id })) }))),
      total > 60 && h("p.faint", null, "The first 60; Search these shows all."));
  }

  clear() {
    this.plot.setLine(null);
    this.legend();
  }

  // ---- one frame

  async frameAt(i) {
    const row = this.found.rows[i];
    if (!this.names.has(row)) this.names.set(row, (await get("/map/frames", { rows: row }))[0]);
    return this.names.get(row);
  }

  hover(i, x, y) {
    if (i === this.under) return;
    this.under = i;
    clearTimeout(this.peeking);
    this.peek.hidden = true;
    this.plot.canvas.classList.toggle("on", i !== null);
    if (i === null) return;
    this.peeking = setTimeout(async () => {
      const id = await this.frameAt(i).catch(() => null);
      if (!id || this.under !== i) return;
      const field = this.plot.node.getBoundingClientRect();
      const right = x - field.left + 244 < field.width ? x - field.left + 14 : x - field.left - 244;
      const top = Math.max(6, Math.min(field.height - 176, y - field.top - 40));
      put(this.peek, h("img", { src: previewUrl(id), alt: "" }), h("span", null, this.nameOf(i)));
      this.peek.style.setProperty("transform", `translate(${right}px, ${top}px)`);
      this.peek.hidden = false;
    }, 60);
  }

  nameOf(i) {
    const code = this.plot.codes[i];
    const number = this.found.color?.numbers?.[i];
    if (this.scale) return `${words(this.chosen)} ${number ?? this.found.color.values?.[this.found.color.codes[i]] ?? "–"}`;
    return this.entries[code]?.[0] ?? (this.entries.length ? "none" : `row ${count(this.found.rows[i])}`);
  }

  async pick(i) {
    const id = await this.frameAt(i).catch((fault) => this.refuse(fault));
    if (id) go(withQuery({ frame: id }));
  }

  showFrame(frameId) {
    if (this.detail?.frameId === frameId) return;
    this.detail?.node.remove();
    this.detail = null;
    if (!frameId) return;
    const leave = () => go(withQuery({ frame: null }));
    this.detail = openDetail(frameId, { close: leave, like: (id) => go(searchUrl("", { like: id })), unlike: (id) => go(searchUrl("", { unlike: id })) });
    document.body.append(this.detail.node);
  }

  key(event) {
    if (document.querySelector("dialog[open]") || event.target.matches?.("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const side = { y: "yes", n: "no" }[event.key];
    if (side && this.detail) {
      event.preventDefault(); // The key asks for a name at first; it must not be typed into the field.
      markFrame(this.detail.frameId, side);
    }
    if (event.key !== "Escape") return;
    if (this.detail) this.detail.leaveCrop() || go(withQuery({ frame: null }));
    else if (this.plot.kept) this.clear();
    else this.setLasso(false);
  }
}
