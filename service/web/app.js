// Starts the curator UI: routes, the footer that tells how the line is doing, and the list of keys.

import { get, poll } from "./parts/api.js";
import { h, put } from "./parts/dom.js";
import { count, percent, plural } from "./parts/format.js";
import { showKeys } from "./parts/keys.js";
import { otherwise, route, start } from "./parts/router.js";
import { batchPage } from "./pages/batch.js";
import { batchesPage } from "./pages/batches.js";
import { conceptPage } from "./pages/concept.js";
import { conceptsPage } from "./pages/concepts.js";
import { coveragePage } from "./pages/explore/coverage.js";
import { duplicatesPage } from "./pages/explore/duplicates.js";
import { mapPage } from "./pages/explore/map.js";
import { slicesPage } from "./pages/explore/slices.js";
import { missingPage } from "./pages/missing.js";
import { modelsPage } from "./pages/models.js";
import { planPage } from "./pages/plan.js";
import { plansPage } from "./pages/plans.js";
import { searchPage } from "./pages/search.js";
import { tracePage } from "./pages/trace.js";
import { workflowPage } from "./pages/workflow.js";

route("/", searchPage);
route("/explore", mapPage);
route("/explore/map", mapPage);
route("/explore/slices", slicesPage);
route("/explore/duplicates", duplicatesPage);
route("/explore/coverage", coveragePage);
route("/concepts", conceptsPage);
route("/concepts/{name}", conceptPage);
route("/plans", plansPage);
route("/plans/{name}", planPage);
route("/new-plan", planPage);
route("/batches", batchesPage);
route("/batches/{id}", batchPage);
route("/models", modelsPage);
route("/workflows/{id}", workflowPage);
route("/trace/{id}", tracePage);
otherwise(missingPage);

const foot = document.getElementById("foot");

async function refreshFooter() {
  try {
    put(foot, ...footer(await get("/status")));
  } catch (fault) {
    put(foot, h("span.fault", null, fault.message));
    throw fault;
  }
}

function footer(status) {
  const embedded = status.frames ? status.embedded / status.frames : 0;
  const faults = status.reconcilers.filter((one) => one.last_error);
  const busy = status.reconcilers.filter((one) => one.state === "working").map((one) => one.name);
  return [
    h("span", null, h("b", null, count(status.frames)), ` ${status.frames === 1 ? "frame" : "frames"}`),
    h("span", { title: `${count(status.embedded)} of ${count(status.frames)}` }, h("b", null, percent(Math.floor(embedded * 1000) / 1000, embedded % 1 ? 1 : 0)), " embedded"),
    status.rejects > 0 && h("span", { title: "mlpl rejects lists them" }, h("b", null, count(status.rejects)), " rejected"),
    status.encoder.id && h("span", null, "encoder ", h("b", null, status.encoder.id)),
    status.encoder.notice && h("span.notice", { title: status.encoder.notice }, status.encoder.notice),
    faults.length > 0 && h("span.fault", { title: faults.map((one) => `${one.name}: ${one.last_error}`).join("\n") }, `${faults[0].name}: ${faults[0].last_error}`),
    h("span.push", null, busy.length ? `working: ${busy.join(", ")}` : ""),
    status.tasks.length > 0 && h("span", null, plural(status.tasks.length, "task")),
    h("a", { href: "/docs", target: "_blank" }, "API"),
    h("span", null, `v${status.version}`),
  ];
}

document.getElementById("help").addEventListener("click", showKeys);
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input, select, textarea");
  if (event.key === "?" && !typing && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    showKeys();
  }
});

start();
poll(refreshFooter, 4);
