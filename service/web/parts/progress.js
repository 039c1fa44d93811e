// How far a batch has come, and what can be done with it.

import { post } from "./api.js";
import { h, icon, note } from "./dom.js";
import { count, plural } from "./format.js";

const STATES = { planned: "", open: ".busy", complete: ".good", cancelled: ".bad" };
const PARTS = ["labelled", "skipped", "invalid"];

export const statePill = (state) => h(`span.pill${STATES[state] ?? ""}`, null, state);

export function progressBar(counts) {
  const total = Math.max(1, counts.total);
  const done = counts.labelled + counts.skipped;
  return h("div", null,
    h("div.progress", { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": counts.total, "aria-valuenow": done },
      PARTS.filter((part) => counts[part]).map((part) => h(`i.${part}`, { style: { "--share": counts[part] / total } }))),
    h("div.legend", null,
      h("span.labelled", null, `${count(counts.labelled)} labelled`),
      counts.skipped > 0 && h("span.skipped", null, `${count(counts.skipped)} skipped`),
      counts.invalid > 0 && h("span.invalid", { title: "Answers that cannot be read; they wait for a correction." }, `${count(counts.invalid)} invalid`),
      h("span.pending", null, `${count(counts.pending)} pending of ${count(counts.total)}`)));
}

/** How the frames were chosen, in a few words. */
export function planWords(batch) {
  const { plan } = batch;
  if (plan.hand_picked) return "picked by hand";
  const parts = [String(plan.acquisition || "").replaceAll("_", " ")];
  if (plan.diversity) parts.push("spread over the fleet");
  if (plan.where) parts.push(`from ${plan.where}`);
  if (plan.evaluation) parts.push(`${count(plan.evaluation)} for evaluation`);
  return parts.filter(Boolean).join(", ");
}

/** Buttons for what the batch's state allows; `changed` is called with the batch as it is afterwards. */
export function batchActions(batch, changed) {
  const move = (verb, said, question) => async (event) => {
    if (question && !window.confirm(question)) return;
    const button = event.currentTarget;
    button.disabled = true;
    try {
      changed(await post(`/batches/${encodeURIComponent(batch.batch_id)}/${verb}`));
      note(said);
    } catch (fault) {
      note(fault.message, "bad");
    } finally {
      button.disabled = false;
    }
  };
  const isOpen = batch.state === "open";
  return [
    batch.queue_url && batch.state !== "cancelled" && h("a.button.small", { href: batch.queue_url, target: "_blank", rel: "noopener" }, "Label", icon("out")),
    batch.state === "planned" && (batch.pushable
      ? h("button.small.primary", { onclick: move("push", "Sent to the labellers") }, "Push")
      : h("span.faint", { title: `Its frames: GET /api/v1/batches/${batch.batch_id}/frames` }, "to be labelled elsewhere")),
    (isOpen || batch.state === "complete") && h("button.small", { title: "Collect answers now", onclick: move("sync", "Answers collected") }, "Sync"),
    (isOpen || batch.state === "planned") && h("button.small.quiet.danger", { onclick: move("cancel", "Withdrawn", `Withdraw ${batch.batch_id}? ${plural(batch.counts.pending, "frame")} go back to the pool; labels stay.`) }, "Cancel"),
  ];
}
