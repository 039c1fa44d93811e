// Each task's models: the metric over versions, the last promotion decision with both figures, and what is training now.

import { get, poll, post } from "../parts/api.js";
import { metricChart } from "../parts/chart.js";
import { emptiness, h, note, put } from "../parts/dom.js";
import { refusal } from "../parts/fault.js";
import { ago, figure, moment, short, words } from "../parts/format.js";
import { openImportDialog } from "../parts/import_dialog.js";
import { workflowPill } from "./workflow.js";

export function modelsPage(home) {
  document.title = "Models · MLPL";
  const body = h("div", null, h("div.wait", null, "…"));
  const bring = h("button.small", { hidden: true, title: "Predictions of a model that was trained elsewhere" }, "Import predictions");
  home.append(h("div.scroll", null, h("div.column", null, h("div.title", null, h("h1", null, "Models"), h("span.grow"), bring), body)));
  let before = "";

  async function refresh() {
    try {
      const [tasks, models, workflows] = await Promise.all([get("/tasks"), get("/models"), get("/workflows")]);
      const now = JSON.stringify([tasks, models.map((one) => [one.model_id, one.current]), workflows]);
      if (now === before) return;
      before = now;
      bring.hidden = !tasks.length;
      bring.onclick = () => openImportDialog({ tasks, done: refresh });
      if (!tasks.length) {
        put(body, emptiness("No task yet", "A model belongs to a task:", "mlpl task create road-users --kind multilabel --classes car,pedestrian,cyclist"));
        return;
      }
      const of = (list, task) => list.filter((one) => one.task_id === task.task_id);
      put(body, tasks.map((task) => section(task, of(models, task), of(workflows, task), refresh)));
    } catch (fault) {
      if (!before) put(body, refusal(fault));
      throw fault;
    }
  }

  return { close: poll(refresh, 4) };
}

function section(task, models, workflows, changed) {
  const train = async (event) => {
    event.currentTarget.disabled = true;
    await post("/workflows", { task: task.task_id }).then(() => note("Training started"), (fault) => note(fault.message, "bad"));
    changed();
  };
  const running = workflows.filter((one) => !["completed", "failed"].includes(one.state));
  const failed = workflows[0]?.state === "failed" ? workflows[0] : null;
  return h("section", { style: { "margin-bottom": "34px" } },
    h("div.title", { style: { "margin-bottom": "10px" } }, h("h2", null, task.task_id), h("span.faint", { title: task.classes.join(", ") }, `${task.kind}, ${task.classes.length} classes`), h("span.grow"),
      task.trainable && h("button.small", { onclick: train, title: "Train on the labels that count now" }, "Train now")),
    running.map(runningCard), failed && h("div.card", null, h("span.pill.bad", null, "failed"), " ", h("a", { href: `/workflows/${failed.workflow_id}` }, short(failed.workflow_id)), h("div.dim", { style: { "margin-top": "6px" } }, failed.error)),
    models.length ? [overview(models), table(models)] : h("div.card.dim", null, task.trainable
      ? "No model yet. The first is trained by itself when a batch of this task is complete."
      : ["No model yet. Models of this kind are trained elsewhere; bring their predictions: ", h("code", null, `mlpl predictions import FILE --task ${task.task_id} --model NAME`)]));
}

function runningCard(workflow) {
  const at = workflow.steps.find((step) => step.state !== "completed");
  return h("div.card", { style: { display: "flex", gap: "12px", "align-items": "center" } }, workflowPill(workflow.state),
    h("a", { href: `/workflows/${workflow.workflow_id}` }, short(workflow.workflow_id)), h("span.dim", null, at ? `${at.name} (step ${workflow.steps.indexOf(at) + 1} of ${workflow.steps.length})` : ""));
}

function overview(models) {
  const current = models.find((one) => one.current) || models[0];
  const latest = models[0];
  const oldestFirst = [...models].reverse();
  const points = oldestFirst.map((one, i) => ({
    value: one.metric, label: `v${i + 1}`, current: one.current, kept: one.promotion.promoted, href: origin(one),
    title: `${one.model_id}\n${words(one.metric_name)} ${figure(one.metric)}\n${one.promotion.reason}`,
  }));
  return h("div.card.two", null,
    points.some((point) => point.value !== null) ? metricChart(points) : h("div.dim", null, "No figure yet."),
    h("div", null,
      h("div.faint", null, current.metric_name ? `${words(current.metric_name)} of the current model` : "the current model was imported"),
      h("div.figure", null, figure(current.metric), delta(current.promotion)),
      h("div.verdict", null, decision(latest))));
}

/** Where a model's making is told: its workflow, or for an imported one the files in its trace. */
const origin = (model) => (model.workflow_id ? `/workflows/${model.workflow_id}` : `/trace/${model.model_id}`);

function delta({ candidate, baseline }) {
  if (candidate === null || baseline === null) return null;
  const change = candidate - baseline;
  return h(change >= 0 ? "span.delta.up" : "span.delta.down", { title: `the one before: ${figure(baseline)} on the same frames` }, `${change >= 0 ? "+" : "−"}${figure(Math.abs(change))}`);
}

/** "v3 became current: 0.712, against 0.655 of the one before on the same frames" */
function decision(model) {
  const { promoted, candidate, baseline, reason } = model.promotion;
  const verdict = promoted ? "The latest model became current" : "The latest model did not become current";
  if (baseline === null) return `${verdict}: ${reason}.`;
  return `${verdict}: ${figure(candidate)} against ${figure(baseline)} of the one before, on the same frames.`;
}

function table(models) {
  const number = new Map([...models].reverse().map((one, i) => [one.model_id, i + 1]));
  return h("div.card", { style: { padding: "6px 8px" } }, h("table", null,
    h("thead", null, h("tr", null, ["", "Model", "Trained", "Metric", "The one before", "Decision", "Dataset", ""].map((name, i) => h(i === 3 || i === 4 ? "th.num" : "th", null, name)))),
    h("tbody", null, models.map((one) => h("tr", { "data-model": one.model_id },
      h("td.faint", null, `v${number.get(one.model_id)}`),
      h("td", null, h("a", { href: origin(one) }, short(one.model_id)), " ", one.current && h("span.pill.good", null, "current")),
      h("td.dim", { title: moment(one.created_at) }, ago(one.created_at)),
      h("td.num", null, figure(one.metric)),
      h("td.num.dim", null, figure(one.promotion.baseline)),
      h("td.dim", { title: one.promotion.reason }, one.promotion.promoted ? "promoted" : "kept the one before"),
      h("td", null, one.dataset_id ? h("a", { href: `/trace/${one.dataset_id}`, title: one.dataset_id }, short(one.dataset_id)) : h("span.dim", null, "imported")),
      h("td", null, h("a", { href: `/trace/${one.model_id}` }, "trace")))))));
}
