// "Add to batch": the frames picked by hand, as many as asked for, chosen by the model from what the filter lets through, or what a saved plan says.

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
  const plans = await get("/plans").catch(() => []);
  let way = frameIds.length > 0 ? "hand" : "ranked"; // or "plan"
  const task = select("task", tasks.map((one) => [one.task_id, `${one.task_id} (${one.kind})`]), localStorage.getItem("batch.task"));
  const budget = h("input", { type: "number", min: 1, max: 100000, value: 100, required: true, name: "budget" });
  const acquisition = select("acquisition", ACQUISITIONS);
  const filter = h("input", { value: where, placeholder: "the whole fleet", name: "where" });
  const plan = select("plan", plans.map((one) => [one.name, `${one.name} (${plural(one.plan.budget, "frame")})`]));
  const diverse = h("input", { type: "checkbox", checked: true });
  const push = h("input", { type: "checkbox", checked: false });
  const wrong = h("div.wrong", { role: "alert" });
  const submit = h("button.primary", { type: "submit" });
  const ranked = h("div", { style: { display: "grid", gap: "14px" } },
    h("div.row", null, field("Frames", budget), field("Order by", acquisition)),
    field("From frames that match", filter),
    h("label.check", null, diverse, h("span", null, "Spread over the fleet", h("div.faint", null, "Near-duplicates are passed over (k-center greedy)."))));
  const saved = h("div", null, field("Plan", plan), h("div.faint", null, "The plan says which frames, how many and why; the filter of this page does not count."));
  const tabs = h("div.tabs", { role: "tablist" }, tab("Let the model choose", "ranked"), frameIds.length > 0 && tab("", "hand"), plans.length > 0 && tab("Use a saved plan", "plan"));
  const form = h("form", { onsubmit: create }, h("h2", null, "New batch"), tabs.children.length > 1 && tabs, field("Task", task), ranked, saved,
    h("label.check", null, push, h("span", null, "Send to the labellers at once", h("div.faint", null, "Needs a running Label Studio. Otherwise push it from the batch's page."))),
    wrong, h("div.foot", null, h("button", { type: "button", onclick: close }, "Cancel"), submit));

  function tab(title, mine) {
    return h("button", { type: "button", role: "tab", "data-way": mine, onclick: () => ((way = mine), draw()) }, title);
  }

  function draw() {
    for (const one of tabs.children) {
      one.setAttribute("aria-selected", one.dataset.way === way);
      if (one.dataset.way === "hand") put(one, `These ${plural(frameIds.length, "frame")}`);
    }
    ranked.hidden = way !== "ranked";
    saved.hidden = way !== "plan";
    put(submit, way === "hand" ? `Create batch of ${frameIds.length}` : "Choose frames");
  }

  async function create(event) {
    event.preventDefault();
    localStorage.setItem("batch.task", task.value);
    put(wrong);
    submit.disabled = true;
    const byWay = {
      hand: () => ["/batches", { task: task.value, budget: frameIds.length, frame_ids: frameIds }],
      ranked: () => ["/batches", { task: task.value, budget: Number(budget.value), acquisition: acquisition.value, diversity: diverse.checked ? "k_center_greedy" : null, where: filter.value }],
      plan: () => ["/plans/run", { task: task.value, plan: plan.value }],
    };
    try {
      const batch = await post(...byWay[way]());
      if (push.checked) {
        await post(`/batches/${batch.batch_id}/push`).then(() => note("Sent to the labellers"), (fault) => note(fault.message, "bad"));
      }
      dialog.close();
      done();
      go(`/batches/${encodeURIComponent(batch.batch_id)}`);
    } catch (fault) {
      put(wrong, fault.message, way === "hand" && leaveOut(fault.details?.frame_ids ?? []));
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
  (way === "hand" ? task : budget).focus();
}

function select(name, options, chosen) {
  const node = h("select", { name }, options.map(([value, title]) => h("option", { value }, title)));
  if (chosen && options.some(([value]) => value === chosen)) node.value = chosen;
  return node;
}

const field = (title, control) => h("label.field", null, title, control);
