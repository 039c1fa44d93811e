// One plan: a form for the common things, its text for all, and beside it what it would choose now.

import { get, post } from "../parts/api.js";
import { emptiness, h, note, put } from "../parts/dom.js";
import { refusal } from "../parts/fault.js";
import { count, figure, plural } from "../parts/format.js";
import { funnel } from "../parts/funnel.js";
import { planForm, planPath } from "../parts/plan_form.js";
import { go, query } from "../parts/router.js";
import { tile } from "../parts/tile.js";

const PAGE = 60;
const SCORES = ["entropy", "margin", "least_confidence", "bald", "expected_gradient_length", "disagreement", "random"];

export function planPage(home, { name }) {
  document.title = `${name ?? "New plan"} · MLPL`;
  const page = new PlanPage(home, name);
  page.load();
  return page;
}

class PlanPage {
  constructor(home, name) {
    this.name = name;
    this.abort = new AbortController();
    this.isText = false;
    this.scores = SCORES;
    this.title = h("h1", null, name ?? "New plan");
    this.task = h("select", { "aria-label": "Task" });
    this.saved = h("span.faint");
    this.edit = h("div");
    this.wrong = h("div.wrong", { role: "alert" });
    this.result = h("section.outcome", { "aria-label": "Preview" });
    this.buttons = [this.button("Save", () => this.save()), this.button("Preview", () => this.preview()), this.button("Make the batch", () => this.run(), "primary")];
    this.tabs = h("div.tabs", { role: "tablist" });
    this.card = h("section.card", null, this.tabs, this.edit);
    home.append(h("div.scroll", null, h("div.column.wide", null,
      h("div.crumb", null, h("a", { href: "/plans" }, "Plans")),
      h("div.title", null, this.title, this.saved, h("span.grow"), this.task, this.buttons),
      this.wrong, h("div.editor", null, this.card, this.result))));
  }

  close() {
    this.abort.abort();
  }

  button(title, act, kind = "") {
    const node = h(`button${kind ? `.${kind}` : ""}`, { onclick: async () => {
      node.disabled = true;
      put(this.wrong);
      try {
        await act();
      } catch (fault) {
        if (fault.name !== "AbortError") this.refuse(fault);
      }
      node.disabled = false;
    } }, title);
    return node;
  }

  refuse(fault) {
    const problems = fault.details?.problems ?? [];
    put(this.wrong, problems.length > 1 ? problems.map((one) => h("div", null, `${one.where}: ${one.problem}`)) : fault.message);
  }

  async load() {
    const { signal } = this.abort;
    try {
      const [tasks, facets, concepts] = await Promise.all([get("/tasks", null, { signal }), get("/facets", null, { signal }), get("/concepts", null, { signal })]);
      this.scores = [...SCORES, ...concepts.map((one) => `concept:${one.name}`), ...Object.keys(facets.histograms).map((key) => `column:${key}`)];
      put(this.task, tasks.map((one) => h("option", { value: one.task_id }, one.task_id)));
      const last = localStorage.getItem("batch.task");
      if (tasks.some((one) => one.task_id === last)) this.task.value = last;
      this.hasTask = tasks.length > 0;
      this.task.hidden = !this.hasTask;
      await this.read();
      this.draw();
      if (this.hasTask && this.name) await this.preview();
      else this.invite();
    } catch (fault) {
      if (signal.aborted) return;
      // There is nothing to edit, preview or save.
      for (const node of [this.task, this.card, ...this.buttons]) node.hidden = true;
      put(this.result, refusal(fault, h("a.button", { href: "/plans" }, "All plans")));
    }
  }

  async read() {
    if (this.name) {
      const { plan, revision } = await get(planPath(this.name));
      this.plan = plan;
      put(this.saved, `revision ${revision}`);
      return;
    }
    const { where, concept } = query();
    const started = { version: 1, where: where ?? "", ...(concept ? { scores: [`concept:${concept}`] } : {}) };
    this.plan = (await post("/plans/text", { plan: started })).plan;
  }

  invite() {
    put(this.result, this.hasTask ? emptiness("Preview", "Shows what is left after each stage, and which frames would be chosen. Nothing is made by it.")
      : emptiness("No task yet", "A plan chooses frames for a task. Create one first:", "mlpl task create road-users --kind multilabel --classes car,pedestrian"));
  }

  // ---- form and text

  draw() {
    const tab = (isText, title) => h("button", { role: "tab", "aria-selected": this.isText === isText, onclick: () => this.turn(isText) }, title);
    put(this.tabs, tab(false, "Form"), tab(true, "YAML"));
    if (this.isText) {
      this.text = h("textarea.yaml", { "aria-label": "The plan as YAML", spellcheck: "false", rows: 26, value: this.written });
      put(this.edit, this.text);
      return;
    }
    put(this.edit, planForm(this.plan, { scores: this.scores, change: (plan) => ((this.plan = plan), put(this.wrong)), refuse: (fault) => this.refuse(fault) }));
  }

  async turn(isText) {
    if (isText === this.isText) return;
    put(this.wrong);
    try {
      if (isText) this.written = (await post("/plans/text", { plan: this.plan })).text;
      else await this.current();
      this.isText = isText;
      this.draw();
    } catch (fault) {
      this.refuse(fault);
    }
  }

  /** The plan as it stands in whichever form is shown. */
  async current() {
    if (this.isText) this.plan = (await post("/plans/text", { plan: this.text.value })).plan;
    return this.plan;
  }

  // ---- what can be done with it

  async save() {
    const plan = await this.current();
    if (!plan.name) throw new Error("Give the plan a name first: lower-case letters, digits and single hyphens.");
    const kept = await post("/plans", plan);
    note(`Saved ${kept.name}, revision ${kept.revision}`);
    if (kept.name !== this.name) go(planPath(kept.name));
    else put(this.saved, `revision ${kept.revision}`);
  }

  async preview() {
    this.result.classList.add("loading"); // It stays so beside a plan that cannot be read: what is shown is of the one before.
    const plan = await this.current();
    try {
      if (!this.hasTask) return this.invite();
      localStorage.setItem("batch.task", this.task.value);
      const found = await post("/plans/preview", { task: this.task.value, plan }, { signal: this.abort.signal });
      this.show(found);
    } catch (fault) {
      if (!this.abort.signal.aborted) put(this.result, refusal(fault));
    } finally {
      this.result.classList.remove("loading");
    }
    return undefined;
  }

  async run() {
    const plan = await this.current();
    if (!this.hasTask) return this.invite();
    localStorage.setItem("batch.task", this.task.value);
    const batch = await post("/plans/run", { task: this.task.value, plan });
    return go(`/batches/${encodeURIComponent(batch.batch_id)}`);
  }

  show({ places, stages, evaluation, model_id: modelId }) {
    const shots = h("div.shots");
    const more = h("button", { onclick: () => further() }, "More");
    let shown = 0;
    function further() {
      shots.append(...places.slice(shown, shown + PAGE).map(place));
      shown = Math.min(places.length, shown + PAGE);
      more.hidden = shown >= places.length;
    }
    further();
    put(this.result, h("div.card", null, h("h2", null, `${plural(places.length, "frame")} would be chosen`),
      h("div.dim", null, evaluation > 0 && `${count(evaluation)} of them for evaluation · `, modelId ? ["scores of ", h("a", { href: `/trace/${modelId}` }, modelId)] : "no model yet"), funnel(stages)),
    shots, h("div.after", null, more));
  }
}

function place({ frame_id: id, score, reason, purpose }) {
  return tile(id, { badge: score === null ? null : figure(score), caption: [purpose === "test" && h("b", null, "evaluation · "), reason], title: reason });
}
