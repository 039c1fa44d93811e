// "Add to batch": the frames picked by hand, or as many as asked for, chosen by the model from what the filter lets through.

import { get, post } from "./api.js";
import { emptiness, h, note, put } from "./dom.js";
import { plural } from "./format.js";
import { go } from "./router.js";

const ACQUISITIONS = [
  ["entropy", "Entropy"],
  ["margin", "Margin"],
  ["least_confidence", "Least confidence"],
  ["random", "Random"],
];

/** `frameIds` may be empty; `where` and `total` are the present filter and what it matches; `done()` follows success. */
export async function openBatchDialog({ frameIds = [], where = "", total = null, done = () => {} }) {
  const dialog = h("dialog", { "aria-label": "New batch", onclose: () => dialog.remove() });
  document.body.append(dialog);
  let tasks;
  try {
    tasks = await get("/tasks");
  } catch (fault) {
    dialog.remove();
    note(fault.message, "bad");
    return;
  }
  const close = () => dialog.close();
  if (!tasks.length) {
    put(dialog, h("form", { method: "dialog" }, emptiness("No task yet", "A batch is labelled for a task. Create one first:",
      "mlpl task create road-users --kind multilabel --classes car,pedestrian,cyclist"), h("div.foot", null, h("button", { type: "button", onclick: close }, "Close"))));
    dialog.showModal();
    return;
  }
  let byHand = frameIds.length > 0;
  const task = select("task", tasks.map((one) => [one.task_id, `${one.task_id} (${one.kind})`]), localStorage.getItem("batch.task"));
  const budget = h("input", { type: "number", min: 1, max: 100000, value: 100, required: true, name: "budget" });
  const acquisition = select("acquisition", ACQUISITIONS);
  const filter = h("input", { value: where, placeholder: "the whole fleet", name: "where" });
  const diverse = h("input", { type: "checkbox", checked: true });
  const push = h("input", { type: "checkbox", checked: false });
  const wrong = h("div.wrong", { role: "alert" });
  const submit = h("button.primary", { type: "submit" });
  const ranked = h("div", { style: { display: "grid", gap: "14px" } },
    h("div.row", null, field("Frames", budget), field("Order by", acquisition)),
    field("From frames that match", filter),
    h("label.check", null, diverse, h("span", null, "Spread over the fleet", h("div.faint", null, "Near-duplicates are passed over (k-center greedy)."))));
  const tabs = h("div.tabs", { role: "tablist" }, tab("Let the model choose", false), frameIds.length > 0 && tab("", true));
  const form = h("form", { onsubmit: create }, h("h2", null, "New batch"), frameIds.length > 0 && tabs, field("Task", task), ranked,
    h("label.check", null, push, h("span", null, "Send to the labellers at once", h("div.faint", null, "Needs a running Label Studio. Otherwise push it from the batch's page."))),
    wrong, h("div.foot", null, h("button", { type: "button", onclick: close }, "Cancel"), submit));

  function tab(title, mine) {
    return h("button", { type: "button", role: "tab", "data-hand": mine, onclick: () => ((byHand = mine), draw()) }, title);
  }

  function draw() {
    for (const one of tabs.children) {
      const mine = one.dataset.hand === "true";
      one.setAttribute("aria-selected", mine === byHand);
      if (mine) put(one, `These ${plural(frameIds.length, "frame")}`);
    }
    ranked.hidden = byHand;
    put(submit, byHand ? `Create batch of ${frameIds.length}` : "Choose frames");
  }

  async function create(event) {
    event.preventDefault();
    localStorage.setItem("batch.task", task.value);
    put(wrong);
    submit.disabled = true;
    const body = byHand
      ? { task: task.value, budget: frameIds.length, frame_ids: frameIds }
      : { task: task.value, budget: Number(budget.value), acquisition: acquisition.value, diversity: diverse.checked ? "k_center_greedy" : null, where: filter.value };
    try {
      const batch = await post("/batches", body);
      if (push.checked) {
        await post(`/batches/${batch.batch_id}/push`).then(() => note("Sent to the labellers"), (fault) => note(fault.message, "bad"));
      }
      dialog.close();
      done();
      go(`/batches/${encodeURIComponent(batch.batch_id)}`);
    } catch (fault) {
      put(wrong, fault.message, byHand && leaveOut(fault.details?.frame_ids ?? []));
      submit.disabled = false;
    }
  }

  /** Frames that cannot be in the batch need not stop the others. */
  function leaveOut(refused) {
    const rest = frameIds.filter((one) => !refused.includes(one));
    if (!rest.length || rest.length === frameIds.length) return false;
    const go = () => {
      frameIds = rest;
      put(wrong);
      draw();
      form.requestSubmit();
    };
    return h("div.next", null, h("button", { type: "button", onclick: go }, `Leave out ${frameIds.length - rest.length}, go on with ${rest.length}`));
  }

  if (total !== null) filter.title = plural(total, "frame");
  draw();
  put(dialog, form);
  dialog.showModal();
  (byHand ? task : budget).focus();
}

function select(name, options, chosen) {
  const node = h("select", { name }, options.map(([value, title]) => h("option", { value }, title)));
  if (chosen && options.some(([value]) => value === chosen)) node.value = chosen;
  return node;
}

const field = (title, control) => h("label.field", null, title, control);
