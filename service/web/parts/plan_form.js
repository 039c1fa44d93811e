// The common things of a plan as a form. The plan itself is the truth: a field changes its own part and leaves the rest alone.

import { h, put } from "./dom.js";

export const planPath = (name) => `/plans/${encodeURIComponent(name)}`;
const METHODS = [["none", "Not"], ["k_center_greedy", "k-center greedy"], ["k_means_plus_plus", "k-means++"], ["typicality", "Typicality"]];

/**
 * `plan` is a whole one, as the API gives it; `change(plan)` gets the one a field led to, `refuse(fault)` why a line of a field cannot be
 * read. `scores` are offered while typing.
 */
export function planForm(plan, { change, refuse, scores }) {
  const set = (part) => change((plan = { ...plan, ...part }));
  const setRead = (read) => {
    let part;
    try {
      part = read();
    } catch (fault) {
      return refuse(fault);
    }
    return set(part);
  };
  const text = (title, name, hint = {}) => field(title, h("input", { value: plan[name] ?? "", "data-field": name, onchange: (event) => set({ [name]: event.target.value.trim() }), ...hint }));
  const whole = (title, name, hint = {}) => field(title, h("input", { type: "number", min: 0, step: 1, value: plan[name] ?? "", "data-field": name, onchange: (event) => set({ [name]: number(event.target.value) }), ...hint }));
  const likeness = h("input", { type: "number", min: 0.5, max: 1, step: "any", placeholder: "auto", value: plan.near_duplicates?.threshold ?? "", disabled: !plan.near_duplicates, "data-field": "near_duplicates.threshold",
    onchange: () => set({ near_duplicates: { ...plan.near_duplicates, threshold: number(likeness.value) } }) });
  const setNear = (wanted) => {
    likeness.disabled = !wanted;
    set({ near_duplicates: wanted ? { threshold: number(likeness.value) } : null });
  };
  const rows = h("div");
  const drawScores = () => put(rows, plan.scores.map((one, i) => scoreRow(one, i, {
    change: (part) => set({ scores: plan.scores.map((other, j) => (j === i ? { ...other, ...part } : other)) }),
    remove: plan.scores.length > 1 ? () => setScores(plan.scores.filter((_, j) => j !== i)) : null,
  })));
  const setScores = (all) => (set({ scores: all }), drawScores());
  drawScores();
  return h("div.plan-form", null,
    h("datalist", { id: "plan-scores" }, scores.map((value) => h("option", { value }))),
    h("div.row", null, field("Name", h("input", { value: plan.name ?? "", "data-field": "name", placeholder: "night-crossings", onchange: (event) => set({ name: event.target.value.trim() || null }) })), whole("Frames", "budget", { min: 1 })),
    text("What it is for", "description"),
    text("From frames that match", "where", { placeholder: "the whole fleet", spellcheck: "false" }),
    field("Leave out what matches (a filter a line)", lines(plan.exclude, (exclude) => set({ exclude }), "exclude", "site:testtrack")),
    h("fieldset", null, h("legend", null, "Order by"), rows,
      h("button.small.quiet", { type: "button", onclick: () => setScores([...plan.scores, { score: unused(plan.scores, scores), weight: 1, order: "highest" }]) }, "Add a score")),
    field("Spread over the fleet", choice(METHODS, plan.diversity.method, (method) => set({ diversity: { ...plan.diversity, method } }), "diversity")),
    h("div.row", null,
      field("Near-duplicates", choice([["", "Keep all"], ["one", "One of each group"]], plan.near_duplicates ? "one" : "", setNear, "near_duplicates")),
      field("Alike from likeness", likeness)),
    field("At least (key: value amount, a line each; 30% or 10)", lines(quotaLines(plan.quotas), (all) => setRead(() => ({ quotas: quotasOf(all) })), "quotas", "weather: rain 30%")),
    field("At most for each value (key: number, a line each)", lines(Object.entries(plan.caps).map(([key, most]) => `${key}: ${most}`), (all) => setRead(() => ({ caps: capsOf(all) })), "caps", "drive: 20")),
    h("div.row", null, whole("For evaluation", "evaluation", { placeholder: "by itself" }), whole("Seed", "seed")));
}

function scoreRow(term, i, { change, remove }) {
  return h("div.row.score", null,
    h("input", { value: term.score, list: "plan-scores", "aria-label": `Score ${i + 1}`, "data-field": `score.${i}`, spellcheck: "false", onchange: (event) => change({ score: event.target.value.trim() }) }),
    h("input.slim", { type: "number", min: 0, step: 0.1, value: term.weight, "aria-label": `Weight ${i + 1}`, title: "Weight against the others", onchange: (event) => change({ weight: Number(event.target.value) }) }),
    choice([["highest", "highest"], ["lowest", "lowest"]], term.order, (order) => change({ order }), `order.${i}`),
    h("button.quiet.small", { type: "button", title: "Remove", "aria-label": `Remove score ${i + 1}`, disabled: !remove, onclick: remove }, "×"));
}

const field = (title, control) => h("label.field", null, title, control);
const number = (text) => (text === "" ? null : Number(text));
const unused = (terms, all) => all.find((name) => !terms.some((one) => one.score === name)) ?? "random";

function choice(options, value, act, name) {
  const node = h("select", { "data-field": name, onchange: () => act(node.value) }, options.map(([one, title]) => h("option", { value: one }, title)));
  node.value = value;
  return node;
}

function lines(values, act, name, placeholder) {
  const node = h("textarea", { rows: Math.max(1, values.length), "data-field": name, placeholder, spellcheck: "false", onchange: () => act(node.value.split("\n").map((one) => one.trim()).filter(Boolean)) });
  node.value = values.join("\n");
  return node;
}

/** {weather: {rain: 0.3}} as "weather: rain 30%" and back. In JSON 1.0 is 1, so a share of all goes as the text "100%" and any 1 is a count. */
const quotaLines = (quotas) => Object.entries(quotas).flatMap(([key, wanted]) => Object.entries(wanted).map(([value, amount]) => `${key}: ${value} ${amount < 1 ? `${Number((100 * amount).toFixed(4))}%` : amount}`));

function quotasOf(all) {
  const quotas = {};
  for (const line of all) {
    const [, key, value, amount, unit] = /^([^:]+):\s*(.+?)\s+([\d.]+)\s*(%?)$/.exec(line) ?? [];
    if (!key) throw new Error(`At least: “${line}” is not “key: value amount”, such as “weather: rain 30%”.`);
    (quotas[key.trim()] ??= {})[value] = !unit ? Number(amount) : amount < 100 ? Number(amount) / 100 : `${amount}%`;
  }
  return quotas;
}

function capsOf(all) {
  return Object.fromEntries(all.map((line) => {
    const [, key, most] = /^([^:]+):\s*(\d+)$/.exec(line) ?? [];
    if (!key) throw new Error(`At most: “${line}” is not “key: number”, such as “drive: 20”.`);
    return [key.trim(), Number(most)];
  }));
}
