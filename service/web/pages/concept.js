// One concept: the fleet ranked by its marks, and the frames whose mark would teach it most. Every mark ranks anew at once.

import { get, post } from "../parts/api.js";
import { h, icon, note, put } from "../parts/dom.js";
import { refusal } from "../parts/fault.js";
import { count, percent } from "../parts/format.js";
import { MARKS, conceptPath, teach } from "../parts/marks.js";
import { go, query, withQuery } from "../parts/router.js";
import { searchUrl, tile } from "../parts/tile.js";
import { forget } from "./concepts.js";

const PAGE = 48;

export function conceptPage(home, { name }) {
  document.title = `${name} · MLPL`;
  const page = new ConceptPage(home, name);
  page.update();
  return page;
}

class ConceptPage {
  constructor(home, name) {
    this.name = name;
    this.path = conceptPath(name);
    this.hits = [];
    this.at = 0;
    this.last = null; // the frame marked last on this page, which u unmarks
    this.turn = 0; // the newest ranking asked for; answers to earlier ones are dropped
    this.head = h("div");
    this.marked = h("div");
    this.tiles = h("div.shots", { role: "listbox", "aria-label": "Ranked frames" });
    this.more = h("button", { hidden: true, onclick: () => this.rank(this.hits.length) }, "More");
    home.append(h("div.scroll", null, h("div.column", null, h("div.crumb", null, h("a", { href: "/concepts" }, "Concepts")), this.head, this.marked, this.tiles, h("div.after", null, this.more))));
    this.listener = (event) => this.key(event);
    document.addEventListener("keydown", this.listener);
  }

  close() {
    this.turn += 1;
    document.removeEventListener("keydown", this.listener);
  }

  get order() {
    return query().order === "informative" ? "informative" : "best";
  }

  async update() {
    try {
      this.show(await get(this.path));
      teach(this.name);
      await this.rank(0);
    } catch (fault) {
      put(this.head, refusal(fault, h("a.button", { href: "/concepts" }, "All concepts")));
    }
  }

  show(concept) {
    const { name, order } = this;
    const tab = (value, title, hint) => h("button", { role: "tab", title: hint, "aria-selected": order === value, onclick: () => go(withQuery({ order: value === "best" ? null : value })) }, title);
    put(this.head, h("div.title", null, h("h1", null, name), h("span.dim", null, `${count(concept.yes.length)} yes, ${count(concept.no.length)} no`), h("span.grow"),
      h("a.button.small", { href: searchUrl(`concept:${name}`, { sort: `-concept:${name}` }), title: `concept:${name}, as a term of any search` }, "Use in search"),
      h("a.button.small", { href: `/new-plan?concept=${encodeURIComponent(name)}` }, "Use in a plan"),
      h("button.small.quiet.danger", { onclick: () => forget(name, () => go("/concepts")) }, "Delete")),
    h("div.title", null, h("div.tabs", { role: "tablist" }, tab("best", "Likeliest first", "Frames that are not marked, by probability"), tab("informative", "Ask me", "The frames it is most unsure of: their marks teach most")),
      h("span.dim", null, h("kbd", null, "y"), " yes ", h("kbd", null, "n"), " no ", h("kbd", null, "u"), " take the last back ", h("kbd", null, "←"), " ", h("kbd", null, "→"), " move")));
    put(this.marked, h("div.card.marked", null, this.strip("yes", concept.yes), this.strip("no", concept.no)));
  }

  /** What is marked, newest first; a click puts a frame on the other side, its cross takes the mark back. */
  strip(side, ids) {
    if (!ids.length) return false;
    const other = side === "yes" ? "no" : "yes";
    return h("section.strip.low", { "data-side": side }, h("span.dim.side-name", null, side === "yes" ? "Yes" : "No"),
      ids.slice(-24).reverse().map((id) => h("span.kept", null, tile(id, { kind: side, title: `Click: ${other} instead`, open: () => this.mark(id, other) }),
        h("button.icon", { title: "Take this mark back", "aria-label": `Take back the mark of frame ${id.slice(0, 8)}`, onclick: () => this.mark(id, "neither") }, icon("cross")))),
      ids.length > 24 && h("span.faint", null, `and ${count(ids.length - 24)} more`));
  }

  async rank(offset) {
    const turn = (this.turn += 1);
    try {
      const found = await get(`${this.path}/frames`, { order: this.order, k: PAGE, offset });
      if (turn !== this.turn) return;
      this.hits = offset ? [...this.hits, ...found] : found;
      this.more.hidden = found.length < PAGE;
      this.at = Math.max(0, Math.min(this.at, this.hits.length - 1));
      this.draw();
    } catch (fault) {
      if (turn === this.turn) put(this.tiles, refusal(fault));
    }
  }

  draw() {
    put(this.tiles, this.hits.map((hit, i) => this.card(hit, i)));
    if (!this.hits.length) put(this.tiles, h("div.wait", null, "Every frame with a vector is marked."));
  }

  card(hit, i) {
    const side = (value, key) => h(`button.small.${value}`, { title: key, "aria-label": `${value}: frame ${hit.frame_id.slice(0, 8)}`, onclick: () => this.mark(hit.frame_id, value) }, value === "yes" ? "Yes" : "No");
    return h(i === this.at ? "div.judged.at" : "div.judged", { role: "option", "aria-selected": i === this.at, "data-frame": hit.frame_id, onpointerenter: () => this.move(i, false) },
      tile(hit.frame_id, { badge: percent(hit.score), title: hit.drive ?? "" }), h("div.sides", null, side("yes", "y"), side("no", "n")));
  }

  move(to, reveal = true) {
    if (!this.hits.length) return;
    this.tiles.children[this.at]?.classList.remove("at");
    this.tiles.children[this.at]?.setAttribute("aria-selected", false);
    this.at = Math.max(0, Math.min(this.hits.length - 1, to));
    const node = this.tiles.children[this.at];
    node.classList.add("at");
    node.setAttribute("aria-selected", true);
    if (reveal) node.scrollIntoView({ block: "nearest" });
  }

  async mark(frameId, side) {
    try {
      this.show(await post(this.path, { [side]: [frameId] }));
      this.last = side === "neither" ? null : frameId;
      await this.rank(0);
    } catch (fault) {
      note(fault.message, "bad");
    }
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input, select, textarea") || document.querySelector("dialog[open]")) return;
    const columns = Math.max(1, Math.round(this.tiles.clientWidth / (this.tiles.firstElementChild?.offsetWidth || this.tiles.clientWidth)));
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const under = this.hits[this.at];
    if (by) this.move(this.at + by);
    else if (event.key === "u") this.last ? this.mark(this.last, "neither") : note("No mark was made here yet; the cross of a marked frame takes its mark back");
    else if (MARKS[event.key] && under) this.mark(under.frame_id, MARKS[event.key]);
    else return;
    event.preventDefault();
  }
}
