// Where a thing came from and what it became, left to right.

import { get, previewUrl } from "../parts/api.js";
import { emptiness, h, put, s } from "../parts/dom.js";
import { count, figure, plural, short, words } from "../parts/format.js";
import { collapse, isForward, layout } from "../parts/graph.js";
import { go } from "../parts/router.js";

const FRAME_LIMIT = 3000;
const THUMBS = 3;
const SMALLEST = 0.68;
const LANE_TITLES = { frame: "Frames", batch: "Batches", label: "Labels", dataset: "Dataset versions", workflow: "Workflows", model: "Models" };

export function tracePage(home, { id }) {
  document.title = `Trace of ${id} · MLPL`;
  const canvas = h("div.canvas", null, h("div.wait", null, "…"));
  const head = h("div.head", null, title(id, null));
  home.append(h("div.trace", null, head, canvas));
  let gone = false;
  get(`/trace/${encodeURIComponent(id)}`, { frame_limit: FRAME_LIMIT }).then((found) => {
    if (gone) return;
    put(head, title(found.id, found));
    const drawing = draw(found, canvas.clientWidth);
    put(canvas, drawing);
    drawing.querySelector(".centre")?.scrollIntoView({ block: "center", inline: "center" });
  }, (fault) => put(canvas, emptiness("Nothing to trace", fault.message, "mlpl trace ID")));
  return { close: () => (gone = true) };
}

function title(id, found) {
  const kinds = found ? ["frame", "label", "batch", "dataset", "workflow", "model"].map((kind) => [kind, found.nodes.filter((node) => node.kind === kind).length]).filter(([, n]) => n) : [];
  const seek = h("input", { placeholder: "Trace another id", "aria-label": "Trace another id", style: { width: "230px" } });
  const submit = (event) => {
    event.preventDefault();
    if (seek.value.trim()) go(`/trace/${encodeURIComponent(seek.value.trim())}`);
  };
  return h("div.title", null, h("h1", null, "Trace"), found && h("span.pill.plain", null, found.kind), h("span.id", { title: id }, short(id)), h("span.grow"),
    h("span.dim", null, kinds.map(([kind, n]) => plural(n, kind).replace("batchs", "batches")).join(" · "), found?.frames_left_out ? ` · ${count(found.frames_left_out)} more frames left out` : ""),
    h("form", { onsubmit: submit }, seek));
}

function draw(found, room) {
  const { nodes, edges, titles, width, height } = layout(collapse(found));
  const byKey = new Map(nodes.map((node) => [node.key, node]));
  const lines = edges.map((edge) => ({ edge, node: line(byKey.get(edge.from), byKey.get(edge.to), edge.kind) }));
  const boxes = nodes.map((node) => box(node, node.members.some((one) => one.id === found.id), (hot) => {
    for (const { edge, node: path } of lines) path.classList.toggle("hot", hot && (edge.from === node.key || edge.to === node.key));
  }));
  // A long line is drawn smaller until it fits, but never too small to read.
  const scale = Math.max(SMALLEST, Math.min(1, room / width));
  return s("svg", { width: width * scale, height: height * scale, viewBox: `0 0 ${width} ${height}` }, titles.map(({ kind, x, y }) => s("text.lane", { x, y }, LANE_TITLES[kind])), lines.map(({ node }) => node), boxes);
}

/** To the right, from side to side; back to an earlier lane (what a model ranked or was compared with), dashed from below to above. */
function line(from, to, kind) {
  const forward = isForward(from, to);
  const [x1, y1] = forward ? [from.x + from.width, from.y + from.height / 2] : [from.x + from.width / 2, from.y + from.height];
  const [x2, y2] = forward ? [to.x, to.y + to.height / 2] : [to.x + to.width / 2, to.y];
  const bend = forward ? Math.max(24, (x2 - x1) / 2) : Math.max(36, Math.abs(y2 - y1) / 2);
  const d = forward ? `M${x1},${y1} C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}` : `M${x1},${y1} C${x1},${y1 + bend} ${x2},${y2 - bend} ${x2},${y2}`;
  return s(forward ? "path.edge" : "path.edge.back", { d }, s("title", null, kind));
}

function box(node, isCentre, hover) {
  const many = node.members.length;
  const kind = many > 1 ? `${count(many)} ${node.kind === "batch" ? "batches" : `${node.kind}s`}` : node.kind;
  const group = s(`g.node.k-${node.kind}${isCentre ? ".centre" : ""}`, { transform: `translate(${node.x},${node.y})`, tabindex: 0, role: "link", "aria-label": `${kind} ${many > 1 ? "" : node.id}` },
    s("title", null, many > 1 ? node.members.slice(0, 12).map((one) => one.id).join("\n") : node.id),
    many > 1 && s("rect.body", { x: 4, y: 4, width: node.width, height: node.height, rx: 8 }),
    s("rect.body", { width: node.width, height: node.height, rx: 8 }),
    s("circle.mark", { cx: 15, cy: 18, r: 4 }),
    s("text.kind", { x: 26, y: 22 }, kind),
    many > 1 ? s("text", { x: 12, y: 42 }, clip(summary(node))) : s("text", { x: 12, y: 41 }, clip(short(node.id))),
    many === 1 && s("text.sub", { x: 12, y: 56 }, clip(subtitle(node))),
    node.kind === "frame" && thumbs(node));
  const open = () => go(target(node));
  group.addEventListener("click", open);
  group.addEventListener("keydown", (event) => event.key === "Enter" && open());
  for (const [on, hot] of [["mouseenter", true], ["focus", true], ["mouseleave", false], ["blur", false]]) group.addEventListener(on, () => hover(hot));
  return group;
}

function thumbs(node) {
  const shown = node.members.slice(0, node.members.length > 1 ? THUMBS : 1);
  const width = (node.width - 24 - 4 * (shown.length - 1)) / shown.length;
  return shown.map((one, i) => s("image", { href: previewUrl(one.id), x: 12 + i * (width + 4), y: 66, width, height: 60, preserveAspectRatio: "xMidYMid slice" }));
}

function summary(node) {
  const kinds = new Set(node.members.map((one) => one.drive).filter(Boolean));
  if (node.kind === "frame") return kinds.size ? `from ${plural(kinds.size, "drive")}` : "";
  const people = new Set(node.members.map((one) => one.annotator).filter(Boolean));
  return people.size ? `by ${people.size === 1 ? [...people][0] : plural(people.size, "person").replace("persons", "people")}` : "";
}

function subtitle(node) {
  switch (node.kind) {
    case "frame": return [node.site, node.drive].filter(Boolean).join(" · ");
    case "label": return node.tombstone ? "withdrawn" : (node.value || []).join(", ") || "none of the classes";
    case "batch": return [node.plan?.hand_picked ? "picked by hand" : node.plan?.acquisition, node.state].filter(Boolean).join(" · ");
    case "dataset": return Object.entries(node.counts || {}).map(([split, n]) => `${count(n)} ${split}`).join(", ");
    case "workflow": return [node.state, node.code?.commit && `code ${node.code.commit.slice(0, 8)}${node.code.clean ? "" : " + changes"}`].filter(Boolean).join(" · ");
    case "model": return node.metric_name ? `${figure(node.metric)} ${words(node.metric_name)}` : "imported";
    default: return "";
  }
}

const clip = (text) => (text && text.length > 27 ? `${text.slice(0, 26)}…` : text || "");

function target(node) {
  const first = node.members[0];
  if (node.kind === "frame") return node.members.length === 1 ? `/?frame=${first.id}` : `/trace/${first.id}`;
  if (node.kind === "batch") return `/batches/${encodeURIComponent(first.id)}`;
  if (node.kind === "workflow") return `/workflows/${encodeURIComponent(first.id)}`;
  return `/trace/${encodeURIComponent(first.id)}`;
}
