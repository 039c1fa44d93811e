// "Import predictions": a file of what a model from elsewhere says of the fleet's frames.

import { postForm } from "./api.js";
import { h, note, put } from "./dom.js";
import { plural } from "./format.js";

/** `tasks` as the API tells them; `done()` follows success. */
export function openImportDialog({ tasks, done }) {
  const fitting = tasks.filter((one) => one.kind !== "segmentation");
  const dialog = h("dialog", { "aria-label": "Import predictions", onclose: () => dialog.remove() });
  const close = () => dialog.close();
  const task = h("select", { name: "task" }, fitting.map((one) => h("option", { value: one.task_id }, `${one.task_id} (${one.kind})`)));
  const file = h("input", { type: "file", name: "file", required: true, accept: ".jsonl,.ndjson,.csv,.parquet,.json" });
  const dataset = h("input", { type: "file", name: "dataset", accept: ".json" });
  const model = h("input", { name: "model", required: true, pattern: "[a-z0-9]([._\\-]?[a-z0-9]){0,47}", placeholder: "detector-7", autocomplete: "off",
    title: "1 to 48 lower-case letters, digits and single dots, hyphens or underscores" });
  const current = h("input", { type: "checkbox", name: "current", checked: true });
  const ofCoco = h("label.field", { hidden: true }, "COCO dataset file, which names the images and categories", dataset);
  const wrong = h("div.wrong", { role: "alert" });
  const submit = h("button.primary", { type: "submit", disabled: !fitting.length }, "Import");
  file.addEventListener("change", () => (ofCoco.hidden = !file.files[0]?.name.endsWith(".json")));

  async function send(event) {
    event.preventDefault();
    const form = new FormData();
    form.append("file", file.files[0]);
    form.append("model", model.value.trim());
    form.append("current", current.checked);
    if (!ofCoco.hidden && dataset.files[0]) form.append("dataset", dataset.files[0]);
    submit.disabled = true;
    put(submit, "Importing…");
    put(wrong);
    try {
      const told = await postForm(`/tasks/${encodeURIComponent(task.value)}/predictions`, form);
      note([h("span", null, `Predictions of ${plural(told.imported, "frame")} imported as ${told.model_id}`), h("a", { href: `/trace/${told.model_id}` }, "Trace")]);
      if (told.broken || told.unknown.count || told.ambiguous.count) note(told.summary, "bad");
      close();
      done();
    } catch (fault) {
      put(wrong, fault.message);
    }
    submit.disabled = false;
    put(submit, "Import");
  }

  put(dialog, h("form", { onsubmit: send }, h("h2", null, "Import predictions"),
    h("div.dim", null, "What a model trained elsewhere says of frames, as JSON Lines, CSV, Parquet or COCO results. Each line names its frame by id, digest, or the end of its path. Segmentation maps: ",
      h("code", null, "mlpl predictions import")),
    h("label.field", null, "Task", task), h("label.field", null, "File", file), ofCoco, h("label.field", null, "Name of the model", model),
    h("label.check", null, current, h("span", null, "Rank the task's frames by it from now on")), wrong,
    h("div.foot", null, h("button", { type: "button", onclick: close }, "Cancel"), submit)));
  document.body.append(dialog);
  dialog.showModal();
}
