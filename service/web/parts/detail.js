// One frame, large, with everything that is known of it.

import { get, imageUrl, previewUrl } from "./api.js";
import { h, icon, note, put } from "./dom.js";
import { cropper } from "./cropper.js";
import { ago, count, figure, moment, percent, reasons, words } from "./format.js";
import { markFrame, taughtConcept } from "./marks.js";

/**
 * Shows a frame over the page. `close()` goes back, `like(id)` and `unlike(id)` search (the id may carry a box, `ID@x0,y0,x1,y1`), and where
 * the page has an order and a selection, `step(by)` goes to a neighbour, `hit(id)` is how the search found it, `select(id)` toggles it,
 * `isSelected(id)` tells, `place(id)` gives "14 of 12,480" or "". `teach(id, side)` marks or unmarks it for the concept that is being taught.
 */
export function openDetail(frameId, { close, like, unlike, step = null, select = null, isSelected = () => false, place = () => "", hit = () => null, teach = markFrame }) {
  const image = h("img", { src: previewUrl(frameId), alt: "" });
  const large = new Image();
  large.addEventListener("load", () => {
    image.replaceWith(large);
    crop.over(large);
  });
  const crop = cropper((box) => like(`${frameId}@${box.join(",")}`));
  large.alt = `Frame ${frameId}`;
  large.src = imageUrl(frameId);
  const body = h("div", null, h("div.wait", null, "…"));
  const selectButton = h("button.small", { onclick: () => (select(frameId), mark()) });
  const where = h("span.where", null);
  const taught = h("div.acts", { title: "Marks for the concept that is being taught; the first asks for its name" }, h("span.dim", null, taughtConcept() || "Concept"),
    h("button.small", { title: "y", onclick: () => teach(frameId, "yes") }, "Yes"),
    h("button.small", { title: "n", onclick: () => teach(frameId, "no") }, "No"),
    h("button.small.quiet", { title: "u: takes the mark back", onclick: () => teach(frameId, "neither") }, "Unmark"));
  const node = h("div.detail", { role: "dialog", "aria-label": `Frame ${frameId}` },
    h("div.stage", null, image, crop.node,
      step && h("button.step.prev", { title: "Previous (←)", "aria-label": "Previous", onclick: () => step(-1) }, icon("left")),
      step && h("button.step.next", { title: "Next (→)", "aria-label": "Next", onclick: () => step(1) }, icon("right"))),
    h("div.side", null,
      h("header", null, where, h("button.quiet.icon", { title: "Close (Esc)", "aria-label": "Close", onclick: close }, icon("cross"))),
      h("div.acts", null,
        h("button.small", { title: "m", onclick: () => like(frameId) }, "More like this"),
        h("button.small", { title: "l", onclick: () => unlike(frameId) }, "Less like this"),
        h("button.small", { title: "Then draw a box on the image", onclick: () => crop.begin() }, "Part…"),
        select && selectButton,
        h("a.button.small", { href: `/trace/${frameId}`, title: "t" }, "Trace"),
        h("a.button.small", { href: imageUrl(frameId), target: "_blank" }, "Original", icon("out"))),
      taught,
      body));

  function mark() {
    put(selectButton, isSelected(frameId) ? "Selected ✓" : "Select");
    put(where, place(frameId));
  }

  mark();
  const why = reasons(hit(frameId));
  const found = why.length > 0 && h("section.why", null, h("h3", null, "Why it is here"), why.map((line) => h("div", null, line)));
  get(`/frames/${encodeURIComponent(frameId)}`).then((frame) => put(body, found, ...sections(frame)), (fault) => put(body, h("p.dim", null, fault.message)));
  return { node, frameId, mark, leaveCrop: () => crop.leave() };
}

function sections(frame) {
  return [facts(frame), ...predictions(frame), ...labels(frame), ...batches(frame), sightings(frame)];
}

function facts(frame) {
  const rows = [
    ["id", copyable(frame.frame_id)],
    ["captured", moment(frame.captured_at)],
    ["site", frame.site], ["vehicle", frame.vehicle], ["drive", frame.drive], ["camera", frame.camera],
    ["location", frame.location && frame.location.map((x) => x.toFixed(5)).join(", ")],
    ["size", `${frame.width} × ${frame.height} ${frame.format}, ${count(Math.round(frame.size_bytes / 1024))} KiB`],
    ["row", count(frame.row)],
    ...Object.entries(frame.attributes).map(([key, value]) => [words(key), typeof value === "object" ? JSON.stringify(value) : String(value)]),
  ].filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== "–");
  return h("section", null, h("dl.facts", null, rows.map(([key, value]) => [h("dt", null, key), h("dd", null, value)])));
}

function copyable(text) {
  const copy = async () => {
    await navigator.clipboard?.writeText(text);
    note("Copied");
  };
  return h("button.copy", { title: `Copy ${text}`, onclick: copy }, `${text.slice(0, 16)}…`);
}

function predictions(frame) {
  return frame.predictions.map((one) => {
    const sorted = Object.entries(one.probabilities).sort((a, b) => b[1] - a[1]).slice(0, 8);
    const chosen = (p, i) => (one.kind === "multilabel" ? p >= 0.5 : i === 0);
    return h("section", null, h("h3", { title: one.model_id }, `Prediction · ${one.task_id}`),
      sorted.map(([name, p], i) => h(chosen(p, i) ? "div.prob.yes" : "div.prob", null,
        h("span.name", { title: name }, name), h("span.track", null, h("i", { style: { "--share": p } })), h("span.p", null, percent(p)))));
  });
}

function labels(frame) {
  const tasks = [...new Set(frame.labels.map((one) => one.task_id))];
  return tasks.map((task) => {
    const revisions = frame.labels.filter((one) => one.task_id === task);
    const standing = revisions.find((one) => one.stands);
    const value = standing ? (standing.value.length ? standing.value.map((name) => h("span.tag", null, name)) : h("span.tag.none", null, "none of the classes")) : h("span.tag.none", null, "withdrawn");
    const by = standing || revisions[revisions.length - 1];
    return h("section", null, h("h3", null, `Label · ${task}`), h("div", null, value),
      h("div.faint", { title: moment(by.answered_at) }, `${by.annotator}, ${ago(by.answered_at)}${revisions.length > 1 ? `, revision ${by.revision}` : ""} · `, h("a", { href: `/trace/${by.label_id}` }, "trace")));
  });
}

function batches(frame) {
  if (!frame.batches.length) return [];
  return [h("section", null, h("h3", null, "Batches"), frame.batches.map((one) =>
    h("div", { style: { "margin-bottom": "8px" } }, h("a", { href: `/batches/${one.batch_id}` }, one.batch_id),
      h("span.faint", null, ` · rank ${one.rank + 1}${one.score === null ? "" : ` · score ${figure(one.score)}`} · ${one.state}`),
      h("div.dim", null, one.reason))))];
}

function sightings(frame) {
  return h("section", null, h("h3", null, frame.sightings.length === 1 ? "Found at" : `Found at ${frame.sightings.length} places`),
    frame.sightings.slice(0, 5).map((one) => h("div.faint", { style: { "overflow-wrap": "anywhere" }, title: moment(one.seen_at) }, one.site ? `${one.site}: ` : "", one.uri)));
}

