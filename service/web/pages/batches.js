// All batches, with their progress, asked for again every few seconds while someone looks.

import { get, poll } from "../parts/api.js";
import { openBatchDialog } from "../parts/batch_dialog.js";
import { emptiness, h, put } from "../parts/dom.js";
import { refusal } from "../parts/fault.js";
import { ago, moment } from "../parts/format.js";
import { batchActions, planWords, progressBar, statePill } from "../parts/progress.js";
import { go, query, withQuery } from "../parts/router.js";

export function batchesPage(home) {
  document.title = "Batches · MLPL";
  const list = h("div", null, h("div.wait", null, "…"));
  const picker = h("select", { "aria-label": "Task", onchange: () => go(withQuery({ task: picker.value })) });
  home.append(h("div.scroll", null, h("div.column", null,
    h("div.title", null, h("h1", null, "Batches"), h("span.grow"), picker, h("button.primary", { onclick: () => openBatchDialog({}) }, "New batch")), list)));

  get("/tasks").then((tasks) => {
    put(picker, h("option", { value: "" }, "All tasks"), tasks.map((one) => h("option", { value: one.task_id }, one.task_id)));
    picker.value = query().task || "";
    picker.hidden = tasks.length < 2;
  }, () => {});

  let before = "";
  async function refresh() {
    try {
      const batches = await get("/batches", { task: query().task });
      const now = JSON.stringify(batches);
      if (now !== before) put(list, batches.length ? batches.map((batch) => card(batch, refresh)) : nothing());
      before = now;
    } catch (fault) {
      if (!before) put(list, refusal(fault));
      throw fault;
    }
  }

  const stop = poll(refresh, 3);
  return { close: stop, update: () => ((picker.value = query().task || ""), (before = ""), refresh()) };
}

function card(batch, changed) {
  const href = `/batches/${encodeURIComponent(batch.batch_id)}`;
  return h("article.card.lot", { "data-batch": batch.batch_id },
    h("div", null, h("div.head", null, h("a", { href }, batch.batch_id), statePill(batch.state)),
      h("div.sub", { title: `${planWords(batch)} · ${moment(batch.created_at)}` }, `${batch.task_id} · ${planWords(batch)} · ${ago(batch.created_at)}`)),
    progressBar(batch.counts),
    h("div.acts", null, batch.workflow_id && h("a.button.small", { href: `/workflows/${batch.workflow_id}` }, "Training"), batchActions(batch, changed)));
}

function nothing() {
  return emptiness("No batches yet", "Select frames on the search page, let the model choose with New batch, or run:", "mlpl batch create --task road-users --budget 100");
}
