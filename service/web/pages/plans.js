// Saved plans, by name.

import { get } from "../parts/api.js";
import { emptiness, h, put } from "../parts/dom.js";
import { refusal } from "../parts/fault.js";
import { ago, count, moment, words } from "../parts/format.js";
import { planPath } from "../parts/plan_form.js";

export function plansPage(home) {
  document.title = "Plans · MLPL";
  const list = h("div", null, h("div.wait", null, "…"));
  const start = () => h("a.button", { href: "/new-plan" }, "New plan");
  home.append(h("div.scroll", null, h("div.column", null,
    h("div.title", null, h("h1", null, "Plans"), h("span.dim", null, "What batches are chosen by"), h("span.grow"), start()), list)));
  get("/plans").then(
    (all) => put(list, all.length ? all.map(card) : emptiness("No saved plans", "A plan says which frames a batch takes: filters, scores, spread, quotas. Make one here, or run:", "mlpl plan save FILE", start())),
    (fault) => put(list, refusal(fault)));
}

function card({ name, revision, saved_at: savedAt, plan }) {
  return h("article.card", { "data-plan": name },
    h("div.title", null, h("h2", null, h("a", { href: planPath(name) }, name)), h("span.faint", { title: moment(savedAt) }, `revision ${revision} · ${ago(savedAt)}`), h("span.grow"),
      h("a.button.small", { href: planPath(name) }, "Open")),
    plan.description && h("div", null, plan.description),
    h("div.dim", null, summary(plan)));
}

/** A plan in one line. */
function summary(plan) {
  return [
    `${count(plan.budget)} frames`, `by ${plan.scores.map((one) => (one.order === "lowest" ? `lowest ${words(one.score)}` : words(one.score))).join(" + ")}`,
    plan.where && `from ${plan.where}`, plan.near_duplicates && "without near-duplicates", plan.diversity.method !== "none" && words(plan.diversity.method),
    Object.keys(plan.quotas).length > 0 && `quotas on ${Object.keys(plan.quotas).map(words).join(", ")}`,
    Object.keys(plan.caps).length > 0 && `caps on ${Object.keys(plan.caps).map(words).join(", ")}`,
  ].filter(Boolean).join(" · ");
}
