// One run of the Model Line: its steps, what it ran on and with, its figures and its log.

import { ApiError, get, poll } from "../parts/api.js";
import { h, put } from "../parts/dom.js";
import { refusal } from "../parts/fault.js";
import { ago, count, duration, figure, moment, short, words } from "../parts/format.js";

const TONES = { pending: "", running: ".busy", completed: ".good", failed: ".bad" };

export const workflowPill = (state) => h(`span.pill${TONES[state] ?? ""}`, null, state);

export function workflowPage(home, { id }) {
  document.title = `${id} · MLPL`;
  const path = `/workflows/${encodeURIComponent(id)}`;
  const body = h("div", null, h("div.wait", null, "…"));
  const log = h("pre.log", null, "");
  home.append(h("div.scroll", null, h("div.column", null, body, h("div.card", null, h("h2", null, "Log of the training job"), log))));
  let before = "";
  let openPackages = false;

  async function refresh() {
    try {
      const workflow = await get(path);
      const model = workflow.model_id ? await get(`/models/${encodeURIComponent(workflow.model_id)}`) : null;
      const now = JSON.stringify([workflow, model?.current]);
      if (now !== before) put(body, contents(workflow, model, openPackages, (open) => (openPackages = open)));
      before = now;
      const text = await get(`${path}/logs`);
      const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 30;
      if (log.textContent !== text) log.textContent = text;
      if (!text) log.textContent = "The job has not started.";
      if (atEnd) log.scrollTop = log.scrollHeight;
      if (["completed", "failed"].includes(workflow.state)) stop();
    } catch (fault) {
      if (!before) put(body, refusal(fault));
      if (fault instanceof ApiError && fault.status === 404) stop();
      throw fault;
    }
  }

  let stop = () => {};
  stop = poll(refresh, 2.5);
  return { close: () => stop() };
}

function contents(workflow, model, openPackages, remember) {
  return [
    h("div.crumb", null, h("a", { href: "/models" }, "Models")),
    h("div.title", null, h("h1", null, workflow.workflow_id), workflowPill(workflow.state), h("span.grow"), h("a.button.small", { href: `/trace/${workflow.workflow_id}` }, "Trace")),
    workflow.error && h("div.card", null, h("span.pill.bad", null, "failed"), " ", workflow.error),
    h("div.steps", null, workflow.steps.map(step)),
    h("div.pair", { style: { "margin-bottom": "14px" } }, h("div.card", null, h("h2", null, "Record"), facts(record(workflow))), h("div.card", null, h("h2", null, "Code and environment"), facts(origin(workflow)), packages(workflow, openPackages, remember))),
    model && evaluation(model),
    h("div.card", null, h("h2", null, "Hyperparameters"), hyperparameters(workflow)),
  ];
}

function step(one) {
  const { outputs } = one;
  const said = { freeze: outputs.counts && `${count(outputs.counts.train)} train, ${count(outputs.counts.test)} test`, train: outputs.billable_s !== undefined && `${duration(outputs.billable_s)} billed`, evaluate: outputs.metric !== undefined && `${words(outputs.metric_name)} ${figure(outputs.metric)}`, register: outputs.promotion && (outputs.promotion.promoted ? "became current" : "did not become current"), predict: outputs.rows !== undefined && `${count(outputs.rows)} rows` }[one.name];
  return h("div.step", { title: one.started_at ? `${moment(one.started_at)} to ${moment(one.ended_at)}` : "" }, h("div.name", null, one.name), workflowPill(one.state), " ", h("span.faint", null, one.seconds === null ? "" : duration(one.seconds)), h("div.small", null, said || "\u00a0"));
}

function record(workflow) {
  const { cause } = workflow;
  return [
    ["Task", workflow.task_id],
    ["Started by", cause.batch_id ? ["batch ", h("a", { href: `/batches/${cause.batch_id}` }, cause.batch_id)] : "a person"],
    ["Started", `${moment(workflow.created_at)} (${ago(workflow.created_at)})`],
    ["Ended", moment(workflow.ended_at)],
    ["Dataset version", workflow.dataset_id && h("a.mono", { href: `/trace/${workflow.dataset_id}`, title: workflow.dataset_id }, short(workflow.dataset_id))],
    ["Model", workflow.model_id && h("a", { href: `/trace/${workflow.model_id}` }, short(workflow.model_id))],
    ["Compared with", workflow.baseline_model_id && h("a", { href: `/trace/${workflow.baseline_model_id}` }, short(workflow.baseline_model_id))],
    ["Split", workflow.steps[0]?.outputs.split_note],
  ];
}

function origin(workflow) {
  const { code, environment } = workflow;
  const clean = code?.clean;
  return [
    ["Commit", code && (code.commit ? [h("span.mono", { title: code.commit }, code.commit.slice(0, 12)), " ", h(clean ? "span.pill.good" : "span.pill.warn", null, clean ? "clean" : "with local changes")] : "installed package")],
    ["Version", code && [code.version, code.tag ? ` (${code.tag})` : ""].join("")],
    ["Executor", workflow.executor],
    ["Python", environment?.python],
    ["Machine", environment && `${environment.machine}, ${environment.system}`],
    ["Lock file", environment?.lock_digest && h("span.mono", { title: environment.lock_digest }, environment.lock_digest.slice(0, 12))],
  ];
}

function packages(workflow, open, remember) {
  const all = Object.entries(workflow.environment?.packages || {});
  if (!all.length) return null;
  const node = h("details", { open, style: { "margin-top": "10px" } }, h("summary.dim", null, `${count(all.length)} packages`), h("pre.log", { style: { "margin-top": "8px", "max-height": "240px" } }, all.map(([name, version]) => `${name}==${version}`).join("\n")));
  node.addEventListener("toggle", () => remember(node.open));
  return node;
}

function evaluation(model) {
  const classes = perClass(model);
  const { promotion } = model;
  return h("div.card", null, h("h2", null, "Evaluation"), h("div.two", null,
    classes.length ? h("div", null, classes.map(([name, value]) => h("div.prob.yes", null, h("span.name", { title: name }, name), h("span.track", null, h("i", { style: { "--share": value ?? 0 } })), h("span.p", null, value === null ? "–" : figure(value, 2))))) : h("div.dim", null, "No figures by class."),
    h("div", null, h("div.faint", null, words(model.metric_name)), h("div.figure", null, figure(model.metric)), h("div.verdict", null, promotion.reason))));
}

/** One figure for each class, whatever the task's kind calls it. */
function perClass(model) {
  const test = model.metrics?.test || {};
  const found = test.per_class || test.classes || {};
  const pick = (value) => (typeof value === "number" || value === null ? value : value.average_precision ?? value.accuracy ?? value.recall ?? value.f1 ?? null);
  return Object.entries(found).map(([name, value]) => [name, pick(value)]);
}

function hyperparameters(workflow) {
  const used = workflow.steps.find((one) => one.name === "train")?.outputs.hyperparameters || workflow.job?.hyperparameters || workflow.hyperparameters;
  const all = Object.entries(used);
  return all.length ? facts(all.map(([key, value]) => [words(key), h("span.mono", null, value)])) : h("div.dim", null, "The defaults.");
}

function facts(rows) {
  return h("dl.facts", null, rows.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([key, value]) => [h("dt", null, key), h("dd", null, value)]));
}
