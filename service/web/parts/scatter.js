// A plane of many points on a canvas: pan, zoom, hover, click and lasso. It knows places and colours, not frames.

import { h } from "./dom.js";
import { NONE } from "./palette.js";
import { PointIndex } from "./point_index.js";

const NEAR_PX = 9;
const MOST_ZOOM = 400;
const CLICK_PX = 4;
const MOST_CORNERS = 60;
const MOST_ROUND = 5000; // points drawn as discs; more are squares
const [BRIGHT, DIM] = [0.85, 0.12];
const ROOM = 0.92; // of the canvas, for all points

export class Scatter {
  /**
   * `hover(i, x, y)` gets a point and where it is in the window, or null; `pick(i)` a click; `lassoed(corners)` a drawn line as pairs of places;
   * `moved()` follows every pan and zoom.
   */
  constructor({ hover, pick, lassoed, moved }) {
    Object.assign(this, { hover, pick, lassoed, moved });
    this.canvas = h("canvas", { tabindex: 0, role: "application", "aria-label": "Map of the frames. Arrows move, plus and minus zoom, 0 shows all, Enter opens the frame in the middle." });
    this.node = h("div.plane", null, this.canvas);
    this.isLasso = false;
    this.path = null; // the line being drawn, in places
    this.kept = null; // the line that was drawn last
    this.down = null;
    Object.assign(this, { zoom: 1, cx: 0, cy: 0 }); // the place in the middle, and how near it is
    this.setPoints([], []);
    this.watcher = new ResizeObserver(() => this.resize());
    this.watcher.observe(this.node);
    const on = (kind, act, options) => this.canvas.addEventListener(kind, act, options);
    on("wheel", (event) => this.wheeled(event), { passive: false });
    on("pointerdown", (event) => this.pressed(event));
    on("pointermove", (event) => this.dragged(event));
    on("pointerup", (event) => this.released(event));
    on("pointercancel", () => ((this.down = this.path = null), this.draw()));
    on("pointerleave", () => this.hover(null));
    on("keydown", (event) => this.key(event));
    on("focus", () => this.draw());
    on("blur", () => this.draw());
  }

  close() {
    this.watcher.disconnect();
    cancelAnimationFrame(this.frame);
  }

  // ---- what is drawn

  setPoints(x, y) {
    this.x = Float32Array.from(x);
    this.y = Float32Array.from(y);
    this.index = new PointIndex(this.x, this.y);
    this.setColours(new Int16Array(this.x.length), [NONE]);
  }

  /** A colour for each point by its place in `colours`, -1 for none. */
  setColours(codes, colours) {
    this.colours = colours;
    this.codes = codes;
    const lots = Array.from({ length: colours.length + 1 }, () => []);
    for (let i = 0; i < codes.length; i += 1) lots[codes[i] + 1].push(i);
    this.lots = lots.map((one) => Int32Array.from(one)); // the first lot has no colour
    this.dimmed = new Set();
    this.draw();
  }

  /** Codes whose points step back. */
  setDimmed(codes) {
    this.dimmed = codes;
    this.draw();
  }

  setLasso(isLasso) {
    this.isLasso = isLasso;
    this.canvas.classList.toggle("lasso", isLasso);
  }

  /** The line that stays on the map, as pairs of places; null for none. */
  setLine(corners) {
    this.kept = corners;
    this.draw();
  }

  // ---- where things are

  fit() {
    Object.assign(this, { zoom: 1, cx: 0, cy: 0 });
    this.changed();
  }

  get scale() {
    return (this.zoom * ROOM * Math.min(this.canvas.clientWidth, this.canvas.clientHeight)) / 2 || 1;
  }

  /** What part of the plane is on screen: [x0, y0, x1, y1]. */
  get box() {
    const [w, tall] = [this.canvas.clientWidth / 2 / this.scale, this.canvas.clientHeight / 2 / this.scale];
    return [this.cx - w, this.cy - tall, this.cx + w, this.cy + tall];
  }

  place(event) {
    const at = this.canvas.getBoundingClientRect();
    return this.placeAt(event.clientX - at.left, event.clientY - at.top);
  }

  placeAt(px, py) {
    return [this.cx + (px - this.canvas.clientWidth / 2) / this.scale, this.cy - (py - this.canvas.clientHeight / 2) / this.scale];
  }

  pixel(x, y) {
    return [this.canvas.clientWidth / 2 + (x - this.cx) * this.scale, this.canvas.clientHeight / 2 - (y - this.cy) * this.scale];
  }

  changed() {
    this.draw();
    this.moved();
  }

  zoomBy(factor, [x, y] = [this.cx, this.cy]) {
    const before = this.zoom;
    this.zoom = Math.max(0.5, Math.min(MOST_ZOOM, this.zoom * factor));
    const kept = 1 - before / this.zoom; // the place under the pointer stays under it
    this.cx += (x - this.cx) * kept;
    this.cy += (y - this.cy) * kept;
    this.changed();
  }

  // ---- drawing

  resize() {
    const dense = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.node.clientWidth * dense));
    this.canvas.height = Math.max(1, Math.round(this.node.clientHeight * dense));
    this.changed();
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  paint() {
    const paper = this.canvas.getContext("2d");
    const dense = this.canvas.width / Math.max(1, this.canvas.clientWidth);
    paper.setTransform(dense, 0, 0, dense, 0, 0);
    paper.clearRect(0, 0, this.canvas.clientWidth, this.canvas.clientHeight);
    const small = this.canvas.clientWidth < 600 ? 0.7 : 1;
    const size = Math.max(2, Math.min(11, small * (this.x.length > 20_000 ? 2 : this.x.length > 3000 ? 3 : 7) * this.zoom ** 0.3));
    if (this.x.length > MOST_ROUND) this.squares(paper, Math.round(size * dense), dense);
    else this.discs(paper, size);
    paper.globalAlpha = 1;
    this.line(paper, this.path ?? this.kept, Boolean(this.path));
    if (document.activeElement === this.canvas && this.canvas.matches(":focus-visible")) this.cross(paper);
  }

  /** The points of each colour, with whether they step back; those come first, so that they lie below. */
  *layers() {
    for (const back of [true, false]) {
      for (const [lot, points] of this.lots.entries()) {
        if (this.dimmed.has(lot - 1) === back) yield { points, back, colour: lot ? this.colours[lot - 1] : NONE };
      }
    }
  }

  discs(paper, size) {
    for (const { points, back, colour } of this.layers()) {
      paper.globalAlpha = back ? DIM : BRIGHT;
      paper.fillStyle = colour;
      paper.beginPath();
      for (const i of points) {
        const [px, py] = this.pixel(this.x[i], this.y[i]);
        paper.moveTo(px + size / 2, py);
        paper.arc(px, py, size / 2, 0, 2 * Math.PI);
      }
      paper.fill();
    }
  }

  /** Many points: straight into the pixels, which is quicker than drawing each. */
  squares(paper, size, dense) {
    const { width, height } = this.canvas;
    const image = paper.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const scale = this.scale * dense;
    const [left, top] = [width / 2 - this.cx * scale - size / 2, height / 2 + this.cy * scale - size / 2];
    for (const { points, back, colour } of this.layers()) {
      const packed = packedColour(colour, back ? DIM : BRIGHT);
      for (let j = 0; j < points.length; j += 1) {
        const px = Math.round(left + this.x[points[j]] * scale);
        const py = Math.round(top - this.y[points[j]] * scale);
        if (px < 0 || py < 0 || px + size > width || py + size > height) continue;
        for (let row = py; row < py + size; row += 1) pixels.fill(packed, row * width + px, row * width + px + size);
      }
    }
    paper.putImageData(image, 0, 0);
  }

  line(paper, corners, isOpen) {
    if (!corners?.length) return;
    paper.beginPath();
    for (const [x, y] of corners) paper.lineTo(...this.pixel(x, y));
    if (!isOpen) paper.closePath();
    paper.fillStyle = "#6fd3b01c";
    paper.fill();
    paper.strokeStyle = "#6fd3b0";
    paper.lineWidth = 1.5;
    paper.stroke();
  }

  cross(paper) {
    const [x, y] = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2];
    paper.strokeStyle = "#e3e7ec";
    paper.strokeRect(x - NEAR_PX, y - NEAR_PX, 2 * NEAR_PX, 2 * NEAR_PX);
  }

  // ---- hands

  nearest([x, y]) {
    return this.index.nearest(x, y, NEAR_PX / this.scale, (i) => !this.dimmed.has(this.codes[i]));
  }

  wheeled(event) {
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), this.place(event));
  }

  pressed(event) {
    if (event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.down = { at: [event.clientX, event.clientY], from: [this.cx, this.cy], moved: false };
    if (this.isLasso !== event.shiftKey) this.path = [this.place(event)]; // Shift does the other of the two
  }

  dragged(event) {
    if (!this.down) {
      const found = this.nearest(this.place(event));
      this.hover(found, event.clientX, event.clientY);
      return;
    }
    const [dx, dy] = [event.clientX - this.down.at[0], event.clientY - this.down.at[1]];
    this.down.moved ||= Math.hypot(dx, dy) > CLICK_PX;
    if (!this.down.moved) return;
    this.hover(null);
    if (this.path) {
      this.path.push(this.place(event));
      this.draw();
    } else {
      [this.cx, this.cy] = [this.down.from[0] - dx / this.scale, this.down.from[1] + dy / this.scale];
      this.changed();
    }
  }

  released(event) {
    if (!this.down) return;
    const [{ moved }, drawn] = [this.down, this.path];
    this.down = this.path = null;
    if (!moved) {
      const found = this.nearest(this.place(event));
      if (found !== null) this.pick(found);
    } else if (drawn && drawn.length > 2) {
      this.kept = thinned(drawn);
      this.lassoed(this.kept);
    }
    this.draw();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 60 / this.scale;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (event.key in moves) {
      this.cx += moves[event.key][0];
      this.cy += moves[event.key][1];
      this.changed();
    } else if (event.key === "+" || event.key === "=") this.zoomBy(1.4);
    else if (event.key === "-") this.zoomBy(1 / 1.4);
    else if (event.key === "0") this.fit();
    else if (event.key === "Enter") {
      const found = this.nearest([this.cx, this.cy]);
      if (found !== null) this.pick(found);
    } else return;
    event.preventDefault();
  }
}

const inks = new Map();

/** A colour as the four bytes of a pixel. */
function packedColour(colour, alpha) {
  const key = `${colour} ${alpha}`;
  if (!inks.has(key)) {
    const paper = new OffscreenCanvas(1, 1).getContext("2d");
    paper.fillStyle = colour;
    paper.fillRect(0, 0, 1, 1);
    const bytes = paper.getImageData(0, 0, 1, 1).data;
    bytes[3] = Math.round(255 * alpha);
    inks.set(key, new Uint32Array(bytes.buffer)[0]);
  }
  return inks.get(key);
}

/** A drawn line with so few corners that it fits into an address; four decimals are less than a pixel. */
function thinned(path) {
  const every = Math.max(1, Math.ceil(path.length / MOST_CORNERS));
  return path.filter((_, i) => i % every === 0).map((corner) => corner.map((one) => Number(one.toFixed(4))));
}
