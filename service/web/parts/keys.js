// The keys, as "?" lists them.

import { h } from "./dom.js";

const KEYS = [
  ["/", "Search box"],
  ["← ↑ ↓ →", "Move in the grid; in the large view, the frame before or after"],
  ["Enter", "Open the frame"],
  ["x or space", "Select"],
  ["Shift + click, Shift + arrows", "Select a range"],
  ["b", "Add the selection to a batch"],
  ["m and l", "More and less like this frame"],
  ["y and n", "Yes and no for the concept that is being taught; the first asks for its name"],
  ["u", "Unmark: take the mark of this frame back; on a concept's page, the last mark made"],
  ["g", "One hit a drive, or all"],
  ["t", "Trace of this frame"],
  ["+ and −", "Larger or smaller thumbnails"],
  ["Esc", "Back: close the large view, then clear the selection"],
  ["?", "This list"],
];

export function showKeys() {
  const close = () => dialog.close();
  const dialog = h("dialog", { "aria-label": "Keys", onclose: () => dialog.remove() },
    h("form", { method: "dialog" },
      h("h2", null, "Keys"),
      h("div.keys", null, KEYS.map(([key, what]) => [h("div", null, h("kbd", null, key)), h("div.dim", null, what)])),
      h("div.foot", null, h("button", { type: "button", onclick: close }, "Close"))));
  document.body.append(dialog);
  dialog.showModal();
}
