// Draws a box on the large image, in pixels of the image itself.

import { h } from "./dom.js";

const SMALLEST = 8;

/** `done([x0, y0, x1, y1])` gets the box in pixels of the image. */
export function cropper(done) {
  const box = h("i");
  const node = h("div.cropper", { hidden: true }, box, h("span", null, "Draw a box around what to look for · Esc leaves"));
  let image = null;
  let from = null;

  /** Where the pixels lie on the screen: the image keeps its shape inside its element. */
  function place() {
    const frame = image.getBoundingClientRect();
    const scale = Math.min(frame.width / image.naturalWidth, frame.height / image.naturalHeight);
    return { scale, left: frame.left + (frame.width - scale * image.naturalWidth) / 2, top: frame.top + (frame.height - scale * image.naturalHeight) / 2 };
  }

  function pixel(event) {
    const { scale, left, top } = place();
    const inside = (x, most) => Math.round(Math.max(0, Math.min(most, x)));
    return [inside((event.clientX - left) / scale, image.naturalWidth), inside((event.clientY - top) / scale, image.naturalHeight)];
  }

  const span = (to) => [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];

  node.addEventListener("pointerdown", (event) => {
    from = pixel(event);
    node.setPointerCapture(event.pointerId);
  });
  node.addEventListener("pointermove", (event) => {
    if (!from) return;
    const [x0, y0, x1, y1] = span(pixel(event));
    const { scale, left, top } = place();
    const home = node.getBoundingClientRect();
    const at = { left: left - home.left + x0 * scale, top: top - home.top + y0 * scale, width: (x1 - x0) * scale, height: (y1 - y0) * scale };
    for (const [name, value] of Object.entries(at)) box.style.setProperty(name, `${value}px`);
  });
  node.addEventListener("pointerup", (event) => {
    if (!from) return;
    const found = span(pixel(event));
    from = null;
    if (found[2] - found[0] < SMALLEST || found[3] - found[1] < SMALLEST) return;
    node.hidden = true;
    done(found);
  });
  return {
    node,
    over: (shown) => (image = shown),
    begin: () => (node.hidden = !image),
    /** Leaves; answers whether there was anything to leave. */
    leave: () => !node.hidden && (node.hidden = true),
  };
}
