// How numbers, times and ids are written. Times are UTC, as in the records.

export const count = (n) => Number(n || 0).toLocaleString("en-US");
export const plural = (n, word) => `${count(n)} ${word}${Number(n) === 1 ? "" : "s"}`;
export const percent = (x, digits = 0) => `${(100 * x).toFixed(digits)}%`;
export const figure = (x, digits = 3) => (x === null || x === undefined ? "–" : Number(x).toFixed(digits));
export const plain = (key) => key.replace(/^attributes\./, "");
export const words = (key) => String(key).replace(/^attributes\./, "").replaceAll("_", " ");

/** "2026-11-23 04:36:12 UTC" */
export function moment(iso) {
  if (!iso) return "–";
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? String(iso) : `${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

/** "3 min ago"; the exact time belongs in a title beside it. */
export function ago(iso) {
  if (!iso) return "–";
  const seconds = Math.max(0, (Date.now() - new Date(iso).getTime()) / 1000);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

/** Long digests are cut, names people chose are not. */
export function short(id) {
  const text = String(id ?? "–");
  const cut = text.replace(/[0-9a-f]{20,}/g, (hex) => hex.slice(0, 10));
  return cut.length > 34 ? `${cut.slice(0, 33)}…` : cut;
}

/** Why a hit is there, a line for each reason. */
export function reasons(hit) {
  const { nearest, terms } = hit?.why ?? {};
  const lines = [];
  if (nearest) {
    const what = { text: `“${nearest.value}”`, image: "the image", frame: nearest.crop_xyxy_px ? `a part of frame ${nearest.value.slice(0, 8)}` : `frame ${nearest.value.slice(0, 8)}` }[nearest.kind];
    lines.push(`${figure(nearest.similarity)} like ${what}`);
  }
  for (const { text, value } of terms ?? []) lines.push(value === null ? text : `${text} (${value})`);
  return lines;
}
