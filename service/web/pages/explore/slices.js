// Slices: the kinds of scene the fleet has, each with pictures, words and what of it is labelled.

import { get } from "../../parts/api.js";
import { h } from "../../parts/dom.js";
import { quoted } from "../../parts/facets.js";
import { refusal } from "../../parts/fault.js";
import { count, figure, percent, words } from "../../parts/format.js";
import { query } from "../../parts/router.js";
import { searchUrl, tile } from "../../parts/tile.js";
import { explorePage, taskPicker } from "./frame.js";

const SHOWN = 6;

export function slicesPage(home) {
  return explorePage(home, { path: "/explore/slices", title: "Slices", controls: [taskPicker()], refused: refusal, load });
}

async function load(signal) {
  const { where, task } = query();
  const found = await get("/slices", { where, task }, { signal });
  return h("div.cards", null, found.map((one) => card(one, where || "")));
}

function card(slice, where) {
  const share = slice.frames ? slice.labelled / slice.frames : 0;
  const name = slice.words.length ? slice.words.join(", ") : `slice ${slice.number}`;
  const all = [where, `slice:${quoted(slice.name)}`].filter(Boolean).join(" ");
  return h("article.card.slice", { "data-slice": slice.name },
    h("div.six", null, slice.examples.slice(0, SHOWN).map((id) => tile(id))),
    h("h2", { title: "Words of the encoder that are nearest to it" }, name),
    h("div.dim", null, `${count(slice.frames)} frames · ${count(slice.labelled)} labelled (${percent(share, share > 0 && share < 0.1 ? 1 : 0)})`),
    h("div.progress", { title: `${percent(share, 1)} labelled` }, h("i.labelled", { style: { "--share": share } })),
    h("div.traits", null, slice.traits.slice(0, 4).map((one) =>
      h("span.tag.none", { title: `${percent(one.share)} of the slice, ${percent(one.fleet_share)} of the fleet` }, `${words(one.key)} ${one.value} ${percent(one.share)}`))),
    h("div.faint", null, slice.novelty !== null && h("span", { title: "Mean distance to what is labelled" }, `novelty ${figure(slice.novelty, 2)} · `), h("span", { title: "Mean distance to its neighbours in the fleet" }, `rarity ${figure(slice.rarity, 2)}`)),
    h("div.acts", null, h("a.button.small", { href: searchUrl(all) }, "Search these"),
      h("a.button.small", { href: searchUrl(`${all} -has:label`) }, "Unlabelled")));
}
