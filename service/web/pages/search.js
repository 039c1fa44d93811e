// The search page. Everything it shows is in the address: q (the words), where, like, unlike, image, sort, group, and the open frame.

import { get, postForm, previewUrl } from "../parts/api.js";
import { openBatchDialog } from "../parts/batch_dialog.js";
import { openDetail } from "../parts/detail.js";
import { emptiness, h, icon, note, put } from "../parts/dom.js";
import { changedWhere, facetPanel, rangedWhere } from "../parts/facets.js";
import { refusal } from "../parts/fault.js";
import { count, plural, words } from "../parts/format.js";
import { Grid } from "../parts/grid.js";
import { keepImage, keptImage } from "../parts/kept_image.js";
import { MARKS, conceptPath, markFrame, taughtConcept, teach } from "../parts/marks.js";
import { go, query, withQuery } from "../parts/router.js";

const FIRST_PAGE = 200;
const LIKENESS = ["like", "unlike"];

export function searchPage(home) {
  const page = new SearchPage(home);
  page.update(query());
  return page;
}

/** Frames in the address, parted by spaces. */
const listed = (text) => text.split(" ").filter(Boolean);

class SearchPage {
  constructor(home) {
    this.shown = null; // what the grid shows now, to tell a new search from an opened frame
    this.terms = [];
    this.numbers = [];
    this.concepts = [];
    get("/concepts").then((all) => ((this.concepts = all.map((one) => one.name)), this.found && this.drawBar()), () => {});
    this.facets = facetPanel({
      terms: () => this.terms,
      change: (key, value, next) => this.visit({ where: changedWhere(this.terms, key, value, next) }),
      span: (key, text) => this.visit({ where: rangedWhere(this.terms, key, text) }),
    });
    const size = Number(localStorage.getItem("grid.size")) || 200;
    this.grid = new Grid({
      size,
      fetchPage: (offset, limit, signal, cursor) => this.fetch(offset, limit, signal, cursor),
      open: (_index, hit) => go(withQuery({ frame: hit.frame_id })),
      chosen: () => this.drawChosen(),
    });
    this.zoom = h("input", { type: "range", min: 110, max: 440, step: 10, value: size, "aria-label": "Thumbnail size", oninput: () => this.resize(Number(this.zoom.value)) });
    this.bar = h("div.bar");
    this.chosen = h("div.chosen", { hidden: true });
    this.blank = h("div");
    this.results = h("section.results", null, this.bar, this.grid.node, this.chosen);
    home.append(h("div.search", null, this.facets.node, this.results));
    this.makeBox();
    this.listen();
  }

  close() {
    this.closeDetail();
    this.grid.close();
    this.abort?.abort();
    for (const [target, kind, handler] of this.listeners) target.removeEventListener(kind, handler);
  }

  // ---- the address

  /** Goes to this page with some of the search changed; an open frame is closed by it. */
  visit(changes) {
    return go(withQuery({ frame: null, ...changes }));
  }

  /** Adds to what to be near to, or far from, or takes one thing away; several stand in the address side by side. */
  visitExamples(kind, id, { without = false } = {}) {
    const now = Object.fromEntries(LIKENESS.map((one) => [one, listed(this.search[one]).filter((other) => other !== id)]));
    if (!without) now[kind].push(id);
    return this.visit({ like: now.like.join(" "), unlike: now.unlike.join(" "), sort: null });
  }

  update(asked) {
    const q = asked.q || asked.text || "";
    document.title = q ? `${q} · MLPL` : "MLPL";
    const search = { q, where: asked.where || "", like: asked.like || "", unlike: asked.unlike || "", image: asked.image || "", sort: asked.sort || "", group: asked.group || "" };
    const key = JSON.stringify(search);
    if (key !== this.shown) {
      this.shown = key;
      this.search = search;
      this.input.value = search.q;
      this.run();
    }
    this.showFrame(asked.frame || null);
  }

  // ---- searching

  async run() {
    this.abort?.abort();
    this.abort = new AbortController();
    const { signal } = this.abort;
    this.asOf = null;
    this.drawBar("Searching…");
    // Only the first search with words or an image after a start takes this long.
    const patience = setTimeout(() => signal.aborted || this.drawBar("Loading the encoder…"), 1500);
    try {
      const found = await this.fetch(0, FIRST_PAGE, signal);
      clearTimeout(patience);
      if (signal.aborted) return;
      this.asOf = found.rows;
      this.found = found;
      this.terms = found.terms;
      this.drawMistake(null);
      if (found.where !== this.search.where || found.words !== this.search.q) this.settle(found);
      this.grid.seed(found);
      this.drawBar();
      this.drawBlank();
      this.detail?.mark();
      this.facets.redraw();
      const facets = await get("/facets", { where: this.search.where }, { signal });
      this.facets.draw(facets);
      this.numbers = Object.keys(facets.histograms);
      this.drawBar();
    } catch (fault) {
      clearTimeout(patience);
      if (fault.name === "AbortError") return;
      this.found = { total: 0, hits: [], terms: this.terms, failed: true };
      this.grid.seed(this.found);
      this.drawBar();
      this.drawMistake(fault);
      this.drawBlank(fault);
    }
  }

  /** The server has split what was typed into words and terms; the address says so from now on. */
  settle(found) {
    this.search = { ...this.search, q: found.words, where: found.where };
    this.shown = JSON.stringify(this.search);
    this.input.value = found.words;
    history.replaceState(null, "", withQuery({ q: found.words, text: null, where: found.where }));
  }

  async fetch(offset, limit, signal, cursor) {
    const { q, where, image, sort, group } = this.search;
    const asked = { q, where, like: listed(this.search.like), unlike: listed(this.search.unlike), sort, group, k: limit };
    Object.assign(asked, cursor ? { cursor } : { offset, as_of: this.asOf });
    if (!image) return get("/search", asked, { signal });
    const kept = keptImage(image);
    if (!kept) throw new Error("This search was made with an image that is on another machine: drop it here again.");
    const form = new FormData();
    form.append("file", kept, "image.jpg");
    return postForm("/search/image", form, asked, { signal });
  }

  // ---- the box

  makeBox() {
    this.input = h("input", { type: "search", placeholder: "Describe a scene, or filter: timeofday:dusk -weather:rain speed_kph:>40", "aria-label": "Search", spellcheck: "false", autocomplete: "off" });
    const file = h("input", { type: "file", accept: "image/*", hidden: true, onchange: () => this.byImage(file.files[0]) });
    const box = h("form.box", { role: "search", onsubmit: (event) => this.submit(event) }, icon("glass", "glass"), this.input,
      h("div.ends", null, h("kbd.slash", null, "/"), h("button.quiet", { type: "button", title: "Search by an image (or drop one on the page)", "aria-label": "Search by image", onclick: () => file.click() }, icon("image"))), file);
    this.mistake = h("div.mistake", { role: "alert", hidden: true });
    box.append(this.mistake);
    this.input.addEventListener("input", () => this.drawMistake(null));
    put(document.getElementById("slot"), box);
  }

  submit(event) {
    event.preventDefault();
    const typed = this.input.value.trim();
    this.input.blur();
    this.grid.node.focus({ preventScroll: true });
    this.visit({ q: typed, text: null });
  }

  /** A mistake in the box is shown below it, with a mark under the character. */
  drawMistake(fault) {
    const { position, origin } = fault?.details ?? {};
    const here = origin === "query" && position > 0;
    this.mistake.hidden = !here;
    if (!here) return;
    const text = this.input.value;
    put(this.mistake, h("pre", null, text.slice(0, position - 1), h("mark", null, text.slice(position - 1, position) || " "), text.slice(position)),
      fault.message.replace(/^query, /, ""));
    this.input.focus();
    this.input.setSelectionRange(position - 1, Math.max(position, text.length));
  }

  async byImage(file) {
    if (!file) return;
    try {
      this.visit({ image: await keepImage(file), sort: null });
    } catch {
      note(`${file.name} cannot be read as an image.`, "bad");
    }
  }

  // ---- drawing

  drawBar(state) {
    const { q, like, unlike, image, sort, group } = this.search;
    const total = this.found?.total ?? 0;
    const ranked = Boolean(q || like || unlike || image);
    put(this.bar,
      h("span.total", { id: "total" }, state ?? (this.found?.failed ? "–" : plural(total, group ? words(group) : "frame"))),
      state === undefined && ranked && !sort && total > 0 && h("span.faint", null, `nearest first · ${Math.round(this.found.took_ms)} ms`),
      LIKENESS.flatMap((kind) => listed(this.search[kind]).map((id) => this.seed(kind, id))),
      image && this.seedOf(keptImage(image) ? URL.createObjectURL(keptImage(image)) : null, "like this image", "", () => this.visit({ image: null })),
      this.terms.map((term, i) => this.chip(term, i)),
      this.taught(),
      h("span.grow"),
      this.sorter(ranked),
      h("label.switch", { title: "Show the best frame of each drive (g)" }, h("input", { type: "checkbox", checked: group === "drive", onchange: () => this.regroup() }), "One a drive"),
      total > 0 && h("button.quiet.small", { title: "Choose frames to label from these", onclick: () => this.batch([]) }, "Choose a batch…"),
      h("label", { title: "Thumbnail size (+ and −)" }, this.zoom));
  }

  sorter(ranked) {
    const { sort } = this.search;
    const plain = ranked ? "Nearest first" : "Last ingested first";
    const choices = [["", plain], ["-captured", "Latest first"], ["captured", "Earliest first"]];
    for (const key of ["uncertain", ...this.numbers]) choices.push([`-${key}`, `Most ${words(key)}`], [key, `Least ${words(key)}`]);
    for (const name of this.concepts) choices.push([`-concept:${name}`, `Most ${name}`]);
    if (sort && !choices.some(([value]) => value === sort)) choices.push([sort, sort]);
    const node = h("select.sort", { "aria-label": "Sort", onchange: () => this.visit({ sort: node.value }) }, choices.map(([value, title]) => h("option", { value }, title)));
    node.value = sort;
    return node;
  }

  regroup() {
    return this.visit({ group: this.search.group ? null : "drive" });
  }

  seed(kind, id) {
    const title = `${kind === "like" ? "like" : "not like"} ${id.includes("@") ? "a part of this" : "this"}`;
    return this.seedOf(previewUrl(id.split("@")[0]), title, kind, () => this.visitExamples(kind, id, { without: true }));
  }

  seedOf(url, title, kind, remove) {
    return h(kind === "unlike" ? "span.chip.seed.not" : "span.chip.seed", null, url && h("img", { src: url, alt: "" }), title, h("button", { title: "Remove", "aria-label": "Remove", onclick: remove }, icon("cross")));
  }

  chip(term, i) {
    const rest = this.terms.filter((_, j) => j !== i).map((one) => one.text).join(" ");
    const joint = ["after", "before"].includes(term.key) ? " " : ": ";
    const said = term.key === "map" ? "drawn on the map" : words(term.key) + joint + term.values.join(" or ");
    return h(term.negated ? "span.chip.not" : "span.chip", null, `${term.negated ? "not " : ""}${said}`,
      h("button", { title: "Remove", "aria-label": `Remove ${term.text}`, onclick: () => this.visit({ where: rest }) }, icon("cross")));
  }

  drawBlank(fault) {
    this.blank.remove();
    const nothing = this.found.total === 0;
    this.grid.node.hidden = nothing;
    if (!nothing) return;
    const { q, where, like, unlike, image } = this.search;
    const unfiltered = where && h("button", { onclick: () => this.visit({ where: null }) }, "Remove the filter");
    if (fault?.code === "unreachable") this.blank = refusal(fault, null, () => this.run());
    else if (!this.mistake.hidden) this.blank = emptiness("This cannot be searched for", "The box above shows what is wrong and where.");
    else if (fault) this.blank = emptiness("This did not work", fault.message, where || null, unfiltered);
    else if (this.found.rows === 0) this.blank = emptiness("No frames yet", "Take in a folder of images, with a metadata.jsonl beside them if you have one:", "mlpl ingest /path/to/images --site my-site");
    else if (where) this.blank = emptiness("No frame matches", "Remove a filter above, or click it again on the left.", null, unfiltered);
    else if (q || like || unlike || image) this.blank = emptiness("Nothing to rank yet", "No frame has a vector. `mlpl serve` makes them by itself; by hand:", "mlpl embed");
    else this.blank = emptiness("No frames", "Every frame is withdrawn; this takes one back:", "mlpl withdraw ID --undo");
    this.results.insertBefore(this.blank, this.chosen);
  }

  drawChosen() {
    const number = this.grid.selection.size;
    this.chosen.hidden = number === 0;
    put(this.chosen, h("b", null, `${count(number)} selected`),
      h("button.primary.small", { onclick: () => this.batch([...this.grid.selection.keys()]) }, "Add to batch"),
      h("button.quiet.small", { onclick: () => this.grid.clearSelection() }, "Clear"));
    this.detail?.mark();
  }

  batch(frameIds) {
    openBatchDialog({ frameIds, where: this.search.where, total: this.found.total, done: () => this.grid.clearSelection() });
  }

  resize(size) {
    const fitting = Math.max(110, Math.min(440, size));
    this.zoom.value = fitting;
    localStorage.setItem("grid.size", fitting);
    this.grid.setSize(fitting);
  }

  /** A mark for the concept that is being taught; where the search goes by that concept, it is ranked anew. */
  async mark(frameId, side) {
    const concept = await markFrame(frameId, side);
    if (!concept || !this.search) return;
    if (`${this.search.sort} ${this.search.where}`.includes(`concept:${concept.name}`)) this.run();
    else this.drawBar();
  }

  /** Which concept y and n mark for. */
  taught() {
    const name = taughtConcept();
    return name && h("span.chip.taught", { title: "y and n mark frames for this concept, u takes a mark back" }, "y / n: ", h("a", { href: conceptPath(name) }, name),
      h("button", { title: "Stop", "aria-label": `Stop teaching ${name}`, onclick: () => (teach(""), this.drawBar()) }, icon("cross")));
  }

  // ---- the large view

  showFrame(frameId) {
    if (!frameId) return this.closeDetail();
    if (this.detail?.frameId === frameId) return undefined;
    this.closeDetail();
    const hit = () => this.grid.hit(this.grid.at);
    this.detail = openDetail(frameId, {
      step: (by) => this.step(by),
      close: () => this.visit({}),
      like: (id) => this.visitExamples("like", id),
      unlike: (id) => this.visitExamples("unlike", id),
      hit: (id) => (hit()?.frame_id === id ? hit() : null),
      select: (id) => this.toggle(id),
      teach: (id, side) => this.mark(id, side),
      isSelected: (id) => this.grid.selection.has(id),
      place: (id) => (hit()?.frame_id === id ? `${count(this.grid.at + 1)} of ${count(this.found.total)}` : ""),
    });
    document.body.append(this.detail.node);
    return undefined;
  }

  closeDetail() {
    this.detail?.node.remove();
    this.detail = null;
  }

  async step(by) {
    const hit = await this.grid.load(this.grid.at + by);
    if (!hit) return;
    this.grid.at += by;
    this.grid.reveal(this.grid.at);
    go(withQuery({ frame: hit.frame_id }), { replace: true });
  }

  toggle(frameId) {
    const hit = this.grid.hit(this.grid.at);
    if (hit?.frame_id === frameId) this.grid.toggle();
    else if (!this.grid.selection.delete(frameId)) this.grid.selection.set(frameId, { frame_id: frameId });
    this.drawChosen();
    this.grid.draw();
  }

  // ---- keys and drops

  listen() {
    this.listeners = [
      [document, "keydown", (event) => this.key(event)],
      [document, "paste", (event) => this.byImage([...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/")))],
      [this.results, "dragover", (event) => this.over(event)],
      [this.results, "dragleave", (event) => !this.results.contains(event.relatedTarget) && this.drop?.remove()],
      [this.results, "drop", (event) => this.dropped(event)],
    ];
    for (const [target, kind, handler] of this.listeners) target.addEventListener(kind, handler);
  }

  over(event) {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    this.drop ??= h("div.drop", null, "Drop the image to find frames like it");
    this.results.append(this.drop);
  }

  dropped(event) {
    event.preventDefault();
    this.drop?.remove();
    this.byImage([...event.dataTransfer.files].find((one) => one.type.startsWith("image/")));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.matches("input:not([type=range]), select, textarea")) {
      if (event.key === "Escape") {
        event.target.blur();
        this.grid.node.focus({ preventScroll: true });
      }
      return;
    }
    if (this.handled(event)) event.preventDefault();
  }

  handled(event) {
    const { key } = event;
    if (key === "/") {
      this.input.focus();
      this.input.select();
      return true;
    }
    if (key === "Escape") return this.back();
    const under = this.detail?.frameId ?? this.grid.hit(this.grid.at)?.frame_id;
    if (key === "m" && under) return this.visitExamples("like", under), true;
    if (key === "l" && under) return this.visitExamples("unlike", under), true;
    if (MARKS[key] && under) return this.mark(under, MARKS[key]), true;
    if (key === "g") return this.regroup(), true;
    if (key === "t" && under) return go(`/trace/${under}`), true;
    if (key === "b" && this.found) return this.batch([...this.grid.selection.keys()]), true;
    if (this.detail) {
      if (key === "ArrowLeft" || key === "ArrowRight") return this.step(key === "ArrowLeft" ? -1 : 1), true;
      if (key === "x" || (key === " " && event.target.tagName !== "BUTTON")) return this.toggle(this.detail.frameId), true;
      return false;
    }
    if (key === "+" || key === "=") return this.resize(this.grid.size + 30), true;
    if (key === "-") return this.resize(this.grid.size - 30), true;
    const onButton = event.target.tagName === "BUTTON" && (key === " " || key === "Enter");
    return onButton ? false : this.grid.key(event);
  }

  back() {
    if (this.detail?.leaveCrop()) return true;
    if (this.detail) this.visit({});
    else if (this.grid.selection.size) this.grid.clearSelection();
    else return false;
    return true;
  }
}
