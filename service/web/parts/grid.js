// A thumbnail grid over any number of hits: only the cells on screen exist, and hits are fetched a page at a time.

import { h } from "./dom.js";
import { previewUrl } from "./api.js";
import { count, figure, reasons } from "./format.js";

const PAGE = 200;
const KEPT_PAGES = 60;
const GAP = 8;
const SIDE = 16;
const RATIO = 0.625; // height to width of a cell
// Browsers cut elements off near 33 million pixels; beyond this height the scroll bar stands for more than it shows.
const TALLEST = 8_000_000;

/** What the order goes by, in the corner of a cell. */
function sorted(hit) {
  if (hit.sort_value !== null && hit.sort_value !== undefined) return h("span", null, hit.sort_value > 1e11 ? "" : String(Number(hit.sort_value.toPrecision(4))));
  return hit.score !== null && hit.score !== undefined && h("span", null, figure(hit.score, 3));
}

export class Grid {
  /**
   * `fetchPage(offset, limit, signal, cursor)` resolves to `{hits, total, next_cursor}`; `cursor` is that of the page before where it is
   * known, so that scrolling on neither skips nor repeats a frame. `open(index, hit)` is called on Enter or click;
   * `chosen(map)` whenever the selection changes, with frame_id -> hit.
   */
  constructor({ fetchPage, open, chosen, size }) {
    Object.assign(this, { fetchPage, open, chosen, size });
    this.space = h("div.space");
    this.node = h("div.grid", { tabindex: 0, role: "listbox", "aria-multiselectable": "true", "aria-label": "Frames" }, this.space);
    this.selection = new Map();
    this.cells = new Map();
    this.node.addEventListener("scroll", () => this.scrolled());
    this.node.addEventListener("wheel", (event) => this.wheeled(event), { passive: false });
    this.space.addEventListener("click", (event) => this.clicked(event));
    this.watcher = new ResizeObserver(() => this.measure());
    this.watcher.observe(this.node);
    this.reset();
  }

  close() {
    this.watcher.disconnect();
    for (const { abort } of this.waiting.values()) abort.abort();
    clearTimeout(this.timer);
  }

  /** Forgets all hits (a new search) but keeps the selection. */
  reset() {
    for (const { abort } of this.waiting?.values() || []) abort.abort();
    this.pages = new Map();
    this.cursors = new Map(); // page -> where the page before it ended
    this.waiting = new Map();
    this.total = 0;
    this.at = -1;
    this.anchor = -1;
    this.position = 0;
    for (const cell of this.cells.values()) cell.node.remove();
    this.cells.clear();
    this.node.scrollTop = 0;
  }

  /** Puts in the first page, which the search page has fetched together with the total. */
  seed({ hits, total, next_cursor: next }) {
    this.reset();
    if (next) this.cursors.set(1, next);
    this.total = total;
    this.pages.set(0, hits);
    if (hits.length < Math.min(PAGE, total)) this.total = hits.length;
    this.measure();
  }

  setSize(size) {
    const first = this.firstShown();
    this.size = size;
    this.measure();
    this.moveTo(Math.floor(first / this.columns) * this.step);
  }

  hit(index) {
    return this.pages.get(Math.floor(index / PAGE))?.[index % PAGE];
  }

  /** The hit at `index`, fetched when it is not here yet. */
  async load(index) {
    if (index < 0 || index >= this.total) return undefined;
    return this.hit(index) || (await this.fetch(Math.floor(index / PAGE)))?.[index % PAGE];
  }

  // ---- geometry

  measure() {
    const width = this.node.clientWidth - 2 * SIDE;
    if (width <= 0) return;
    this.columns = Math.max(1, Math.floor((width + GAP) / (this.size + GAP)));
    this.cellWidth = (width - GAP * (this.columns - 1)) / this.columns;
    this.cellHeight = Math.round(this.cellWidth * RATIO);
    this.step = this.cellHeight + GAP;
    this.rows = Math.ceil(this.total / this.columns);
    this.fullHeight = this.rows * this.step + 70;
    this.height = Math.min(this.fullHeight, TALLEST);
    this.space.style.height = `${this.height}px`;
    this.draw();
  }

  get squeezed() {
    return this.fullHeight > this.height;
  }

  /** Pixels of the full, unsqueezed grid for each pixel of scrolling. */
  get ratio() {
    const view = this.node.clientHeight;
    return this.squeezed ? (this.fullHeight - view) / (this.height - view) : 1;
  }

  firstShown() {
    return this.step ? Math.floor(this.position / this.step) * this.columns : 0;
  }

  moveTo(position) {
    this.position = Math.max(0, Math.min(position, this.fullHeight - this.node.clientHeight));
    this.own = true;
    this.node.scrollTop = this.position / this.ratio;
    this.draw();
  }

  scrolled() {
    if (this.own) this.own = false;
    else this.position = this.node.scrollTop * this.ratio;
    this.draw();
  }

  wheeled(event) {
    if (!this.squeezed || event.ctrlKey) return;
    event.preventDefault();
    this.moveTo(this.position + event.deltaY * (event.deltaMode === 1 ? 32 : 1));
  }

  reveal(index) {
    const top = Math.floor(index / this.columns) * this.step;
    const view = this.node.clientHeight;
    if (top < this.position) this.moveTo(top - GAP);
    else if (top + this.step > this.position + view - 20) this.moveTo(top + this.step - view + 20);
  }

  // ---- drawing

  draw() {
    if (!this.columns) return;
    const view = this.node.clientHeight;
    const firstRow = Math.max(0, Math.floor(this.position / this.step) - 2);
    const lastRow = Math.min(this.rows - 1, Math.ceil((this.position + view) / this.step) + 2);
    const first = firstRow * this.columns;
    const last = Math.min(this.total - 1, (lastRow + 1) * this.columns - 1);
    for (const [index, cell] of this.cells) {
      if (index < first || index > last) {
        cell.node.remove();
        this.cells.delete(index);
      }
    }
    const shift = this.squeezed ? this.node.scrollTop - this.position : 0;
    for (let index = first; index <= last; index += 1) this.place(index, shift);
    this.node.classList.toggle("choosing", this.selection.size > 0);
    clearTimeout(this.timer);
    // A fast drag of the scroll bar passes over many pages; only those it rests on are fetched.
    this.timer = setTimeout(() => this.want(first, last), this.pages.has(Math.floor(first / PAGE)) ? 0 : 70);
  }

  place(index, shift) {
    const hit = this.hit(index);
    let cell = this.cells.get(index);
    if (!cell || (hit && !cell.hit)) {
      cell?.node.remove();
      cell = { hit, node: this.make(index, hit) };
      this.cells.set(index, cell);
      this.space.append(cell.node);
    }
    const { node } = cell;
    const row = Math.floor(index / this.columns);
    const x = SIDE + (index % this.columns) * (this.cellWidth + GAP);
    node.style.transform = `translate(${x}px, ${row * this.step + shift + 2}px)`;
    node.style.width = `${this.cellWidth}px`;
    node.style.height = `${this.cellHeight}px`;
    node.classList.toggle("at", index === this.at);
    const on = Boolean(hit && this.selection.has(hit.frame_id));
    node.classList.toggle("on", on);
    if (hit) node.setAttribute("aria-selected", on);
  }

  make(index, hit) {
    if (!hit) return h("div.cell", { "data-index": index });
    const image = h("img", { src: previewUrl(hit.frame_id), alt: "", draggable: "false", decoding: "async" });
    image.addEventListener("load", () => image.classList.add("in"));
    const why = reasons(hit);
    const place = [hit.drive || hit.site, hit.attributes?.timeofday, hit.attributes?.weather].filter(Boolean).join(" · ");
    return h("div.cell", { "data-index": index, "data-frame": hit.frame_id, role: "option", title: why.join("\n") }, image,
      hit.further > 0 && h("span.further", { title: `${hit.further} further frames of ${hit.drive ?? "this group"}` }, `+${count(hit.further)}`),
      h("button.tick", { tabindex: -1, title: "Select (x)", "aria-label": "Select" }),
      h("div.line", null, h("span", null, place), sorted(hit)));
  }

  // ---- hits

  want(first, last) {
    const needed = new Set();
    for (let page = Math.floor(first / PAGE); page <= Math.floor(last / PAGE); page += 1) needed.add(page);
    for (const [page, { abort }] of this.waiting) if (!needed.has(page)) abort.abort();
    for (const page of needed) if (!this.pages.has(page)) this.fetch(page);
  }

  fetch(page) {
    const running = this.waiting.get(page);
    if (running) return running.promise;
    const abort = new AbortController();
    const promise = this.fetchPage(page * PAGE, PAGE, abort.signal, this.cursors.get(page))
      .then(({ hits, next_cursor: next }) => {
        if (next) this.cursors.set(page + 1, next);
        this.keep(page, hits);
        return hits;
      })
      .catch(() => undefined)
      .finally(() => this.waiting.get(page)?.abort === abort && this.waiting.delete(page));
    this.waiting.set(page, { abort, promise });
    return promise;
  }

  keep(page, hits) {
    this.pages.set(page, hits);
    if (this.pages.size > KEPT_PAGES) {
      const farthest = [...this.pages.keys()].sort((a, b) => Math.abs(b - page) - Math.abs(a - page))[0];
      this.pages.delete(farthest);
    }
    if (hits.length < PAGE && page * PAGE + hits.length < this.total) {
      this.total = page * PAGE + hits.length; // the server has fewer than it counted: frames without a vector cannot be ranked
      this.measure();
    } else {
      this.draw();
    }
  }

  // ---- choosing

  clicked(event) {
    const node = event.target.closest(".cell");
    if (!node) return;
    const index = Number(node.dataset.index);
    const hit = this.hit(index);
    if (!hit) return;
    this.node.focus({ preventScroll: true });
    if (event.shiftKey) this.range(index);
    else if (event.target.closest(".tick") || event.ctrlKey || event.metaKey) this.toggle(index);
    else {
      this.at = index;
      this.draw();
      this.open(index, hit);
    }
  }

  toggle(index = this.at) {
    const hit = this.hit(index);
    if (!hit) return;
    if (!this.selection.delete(hit.frame_id)) this.selection.set(hit.frame_id, hit);
    this.at = index;
    this.anchor = index;
    this.changed();
  }

  async range(index) {
    const from = this.anchor < 0 ? Math.max(this.at, 0) : this.anchor;
    const [low, high] = from < index ? [from, index] : [index, from];
    for (let i = low; i <= high; i += 1) {
      const hit = await this.load(i);
      if (hit) this.selection.set(hit.frame_id, hit);
    }
    this.at = index;
    this.changed();
  }

  clearSelection() {
    this.selection.clear();
    this.changed();
  }

  changed() {
    this.draw();
    this.chosen(this.selection);
  }

  /** Handles a key; answers whether it was one of the grid's. */
  key(event) {
    const { columns, total } = this;
    const pageful = Math.max(1, Math.floor(this.node.clientHeight / this.step)) * columns;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -pageful, PageDown: pageful, Home: -Infinity, End: Infinity };
    if (!total) return false;
    if (event.key in moves) {
      const next = Math.max(0, Math.min(total - 1, this.at < 0 ? 0 : this.at + moves[event.key]));
      if (event.shiftKey) {
        if (this.anchor < 0) this.anchor = Math.max(this.at, 0);
        this.range(next);
      } else {
        this.at = next;
      }
      this.reveal(next);
      this.draw();
      return true;
    }
    if (event.key === "x" || event.key === " ") {
      if (this.at < 0) this.at = 0;
      this.toggle();
      return true;
    }
    if (event.key === "Enter" && this.hit(this.at)) {
      this.open(this.at, this.hit(this.at));
      return true;
    }
    return false;
  }
}
