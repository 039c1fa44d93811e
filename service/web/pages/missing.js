// An address that is no page of ours.

import { emptiness, h } from "../parts/dom.js";

export function missingPage(home) {
  document.title = "No such page · MLPL";
  home.append(emptiness("No such page", `There is nothing at ${location.pathname}.`, null, h("a.button", { href: "/" }, "Go to the search")));
  return {};
}
