// A picture of a frame with a line below it, as pages outside the search show them.

import { previewUrl } from "./api.js";
import { h } from "./dom.js";

/** A tile that leads to the frame's large view, unless `open` does something else. */
export function tile(frameId, { caption = null, badge = null, kind = "", open = null, title = "" } = {}) {
  const link = { href: `/?frame=${encodeURIComponent(frameId)}`, title, "data-frame": frameId };
  if (open) link.onclick = (event) => (event.preventDefault(), open(frameId));
  return h(`a.shot${kind ? `.${kind}` : ""}`, link,
    h("img", { src: previewUrl(frameId), alt: `Frame ${frameId.slice(0, 8)}`, loading: "lazy", decoding: "async" }),
    badge && h("span.badge", null, badge), caption && h("span.cap", null, caption));
}

/** The address of a search with a filter, and what else is to be in it. */
export const searchUrl = (where, more = {}) => `/?${new URLSearchParams({ ...(where ? { where } : {}), ...more })}`;
