// Marking frames for a concept: which one is being taught now, and the question for its name when there is none yet.

import { get, post } from "./api.js";
import { h, note, put } from "./dom.js";
import { plural } from "./format.js";

const KEPT = "concept.name";
const SAID = { yes: "Yes", no: "No", neither: "No mark" };

/** Keys and the side they put a frame on. */
export const MARKS = { y: "yes", n: "no", u: "neither" };

export const taughtConcept = () => localStorage.getItem(KEPT) || "";
export const conceptPath = (name) => `/concepts/${encodeURIComponent(name)}`;

/** What `y` and `n` mark for from now on; "" for nothing. */
export function teach(name) {
  if (name) localStorage.setItem(KEPT, name);
  else localStorage.removeItem(KEPT);
}

/**
 * Marks one frame `yes` or `no` for the concept that is being taught, after asking for a name where there is none, or takes its mark back
 * (`neither`). Resolves to the concept or null.
 */
export async function markFrame(frameId, side) {
  if (side === "neither" && !taughtConcept()) return note("No concept is being taught: there is no mark to take back"), null;
  const name = taughtConcept() || (await askName());
  if (!name) return null;
  try {
    const concept = await post(conceptPath(name), { [side]: [frameId] });
    teach(concept.name);
    const [yes, no] = [concept.yes.length, concept.no.length];
    note([h("span", null, `${SAID[side]} for ${concept.name}: ${yes} yes, ${no} no`), h("a", { href: conceptPath(concept.name) }, "Ranking")]);
    return concept;
  } catch (fault) {
    if (fault.status === 422 && side !== "neither") teach(""); // A name that does not fit, or a first mark that is a no: the next key asks again.
    note(fault.message, "bad");
    return null;
  }
}

/** Asks which concept to teach: a new name or one of those there are. Resolves to the name, or "" when it was cancelled. */
export function askName() {
  return new Promise((resolve) => {
    let answer = "";
    const dialog = h("dialog", { "aria-label": "Concept", onclose: () => (dialog.remove(), resolve(answer)) });
    const name = h("input", { name: "concept", required: true, pattern: "[a-z0-9](-?[a-z0-9]){0,47}", placeholder: "zebra-crossing", title: "Lower-case letters, digits and single hyphens", autocomplete: "off" });
    const known = h("div.offers");
    const choose = (text) => ((answer = text), dialog.close());
    const form = h("form", { onsubmit: (event) => (event.preventDefault(), choose(name.value.trim())) },
      h("h2", null, "Teach a concept"),
      h("div.dim", null, "Mark a handful of frames yes (y) or no (n); the fleet is ranked by them. Which concept are these marks for?"),
      h("label.field", null, "Name", name), known,
      h("div.foot", null, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), h("button.primary", { type: "submit" }, "Mark")));
    put(dialog, form);
    document.body.append(dialog);
    dialog.showModal();
    name.focus();
    get("/concepts").then((all) => put(known, all.slice(0, 12).map((one) =>
      h("button.small", { type: "button", title: plural(one.yes.length + one.no.length, "mark"), onclick: () => choose(one.name) }, one.name))), () => {});
  });
}
