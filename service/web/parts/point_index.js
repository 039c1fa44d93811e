// Which point is nearest, without looking at all: points are sorted into square cells once.

const CELLS = 160; // a side

export class PointIndex {
  constructor(x, y) {
    Object.assign(this, { x, y });
    let [low, high] = [Infinity, -Infinity];
    for (const one of [x, y]) for (const value of one) [low, high] = [Math.min(low, value), Math.max(high, value)];
    this.low = Number.isFinite(low) ? low : 0;
    this.wide = Math.max(1e-9, (Number.isFinite(high) ? high - low : 1) / CELLS);
    const starts = new Int32Array(CELLS * CELLS + 1);
    const cellOf = Int32Array.from(x, (one, i) => this.cell(one) * CELLS + this.cell(y[i]));
    for (const cell of cellOf) starts[cell + 1] += 1;
    for (let i = 0; i < CELLS * CELLS; i += 1) starts[i + 1] += starts[i];
    const next = starts.slice();
    this.points = new Int32Array(x.length);
    for (let i = 0; i < x.length; i += 1) this.points[next[cellOf[i]]++] = i;
    this.starts = starts;
  }

  cell(value) {
    return Math.max(0, Math.min(CELLS - 1, Math.floor((value - this.low) / this.wide)));
  }

  /** The nearest point within `reach` that `allowed` lets through, or null. */
  nearest(x, y, reach, allowed) {
    let [found, least] = [null, reach * reach];
    for (let cx = this.cell(x - reach); cx <= this.cell(x + reach); cx += 1) {
      for (let cy = this.cell(y - reach); cy <= this.cell(y + reach); cy += 1) {
        for (let j = this.starts[cx * CELLS + cy]; j < this.starts[cx * CELLS + cy + 1]; j += 1) {
          const i = this.points[j];
          const far = (this.x[i] - x) ** 2 + (this.y[i] - y) ** 2;
          if (far <= least && allowed(i)) [found, least] = [i, far];
        }
      }
    }
    return found;
  }
}
