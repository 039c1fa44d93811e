// One batch: its progress, and its frames with the reason for each and what people said.

import { get, poll, previewUrl } from "../parts/api.js";
import { h, put } from "../parts/dom.js";
import { refusal } from "../parts/fault.js";
import { count, figure, moment, short } from "../parts/format.js";
import { batchActions, planWords, progressBar, statePill } from "../parts/progress.js";

const PAGE = 120;

export function batchPage(home, { id }) {
  document.title = `${id} · MLPL`;
  const path = `/batches/${encodeURIComponent(id)}`;
  const head = h("div", null, h("div.wait", null, "…"));
  const tiles = h("div.frames");
  const end = h("div");
  const scroll = h("div.scroll", null, h("div.column", null, head, tiles, end));
  home.append(scroll);
  const shown = new Map();
  let total = 0;
  let loading = false;

  async function refresh(known) {
    try {
      const batch = known?.batch_id ? known : await get(path);
      total = batch.counts.total;
      put(head, header(batch, refresh));
      // Only what is on the page already is asked for again; the rest comes by scrolling.
      await load(0, Math.max(PAGE, shown.size));
    } catch (fault) {
      if (!shown.size) put(head, refusal(fault));
      throw fault;
    }
  }

  async function load(offset, limit) {
    for (let at = offset; at < Math.min(offset + limit, total); at += 1000) {
      const frames = await get(`${path}/frames`, { offset: at, limit: Math.min(1000, offset + limit - at) });
      for (const frame of frames) show(frame);
    }
  }

  function show(frame) {
    const now = JSON.stringify(frame);
    const old = shown.get(frame.rank);
    if (old?.now === now) return;
    const node = tile(frame);
    if (old) old.node.replaceWith(node);
    else tiles.append(node);
    shown.set(frame.rank, { now, node });
  }

  const watcher = new IntersectionObserver(async ([entry]) => {
    if (!entry.isIntersecting || loading || shown.size >= total) return;
    loading = true;
    await load(shown.size, PAGE).catch(() => {});
    loading = false;
  }, { root: scroll, rootMargin: "900px" });
  watcher.observe(end);
  const stop = poll(refresh, 4);
  return { close: () => (stop(), watcher.disconnect()) };
}

function header(batch, changed) {
  const facts = [
    ["Task", batch.task_id],
    ["Chosen", planWords(batch)],
    ["Ranked by", batch.model_id ? h("a", { href: `/trace/${batch.model_id}` }, short(batch.model_id)) : "no model yet"],
    ["Encoder", batch.encoder_id || "–"],
    ["Labelled in", batch.backend || "not sent yet"],
    ["Created", moment(batch.created_at)],
    batch.completed_at && ["Complete", moment(batch.completed_at)],
    batch.workflow_id && ["Training", h("a", { href: `/workflows/${batch.workflow_id}` }, short(batch.workflow_id))],
  ].filter(Boolean);
  return [
    h("div.crumb", null, h("a", { href: "/batches" }, "Batches")),
    h("div.title", null, h("h1", null, batch.batch_id), statePill(batch.state), h("span.grow"),
      h("a.button.small", { href: `/trace/${encodeURIComponent(batch.batch_id)}` }, "Trace"), batchActions(batch, changed)),
    h("div.card", null, progressBar(batch.counts), h("div", { style: { "margin-top": "16px" } }, h("dl.facts.wide", null, facts.map(([key, value]) => [h("dt", null, key), h("dd", null, value)])))),
  ];
}

const TONES = { labelled: ".good", skipped: "", invalid: ".bad", pending: "" };

function tile(frame) {
  const said = frame.state === "labelled"
    ? (frame.value.length ? frame.value.map((name) => h("span.tag", null, name)) : h("span.tag.none", null, "none of the classes"))
    : frame.problem ? h("span.dim", null, frame.problem) : null;
  return h("a.ftile", { href: `/?frame=${frame.frame_id}`, "data-frame": frame.frame_id },
    h("img", { src: previewUrl(frame.frame_id), alt: "", loading: "lazy", decoding: "async" }),
    h("div.cap", null,
      h("div", null, h("span.rank", null, `#${count(frame.rank + 1)}`), h(`span.pill${TONES[frame.state] ?? ""}`, null, frame.state),
        frame.purpose === "test" && h("span.pill.plain", { title: "Judges models, is never trained on" }, "evaluation"),
        frame.score !== null && h("span.dim", { style: { "margin-left": "auto" }, title: "Acquisition score" }, figure(frame.score))),
      h("div.why", { title: frame.reason }, frame.reason),
      said && h("div", null, said)));
}
