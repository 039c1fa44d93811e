// Colours of points: distinct ones for names, a ramp from dim to bright for numbers.

const NAMES = ["#6fd3b0", "#7cb0f0", "#e0b255", "#e594b4", "#b59cf0", "#ee7f78", "#9bd36f", "#5fc9dd", "#f0a06a", "#c7b08a", "#8f9df5", "#d5e07a"];
const RAMP = [[52, 66, 120], [60, 112, 148], [72, 160, 148], [140, 200, 110], [240, 222, 110]];
export const NONE = "#56616e";
export const PLAIN = "#7cb0f0";
export const STEPS = 24;

/** Colours for `n` names; beyond twelve they repeat, paler. */
export const nameColours = (n) => Array.from({ length: n }, (_, i) => (i < NAMES.length ? NAMES[i] : `color-mix(in srgb, ${NAMES[i % NAMES.length]} 55%, #39424d)`));

/** `STEPS` colours from low to high. */
export const rampColours = () => Array.from({ length: STEPS }, (_, i) => {
  const at = (i / (STEPS - 1)) * (RAMP.length - 1);
  const low = Math.min(RAMP.length - 2, Math.floor(at));
  return `rgb(${RAMP[low].map((one, j) => Math.round(one + (at - low) * (RAMP[low + 1][j] - one))).join(",")})`;
});

/** Numbers (null without one) as steps of the ramp, -1 for none; the outermost hundredth at each end shares the end's colour. */
export function stepped(numbers) {
  const known = numbers.filter((one) => one !== null).sort((a, b) => a - b);
  if (!known.length) return { codes: Int16Array.from(numbers, () => -1), low: null, high: null };
  const low = known[Math.floor(0.01 * (known.length - 1))];
  const high = known[Math.ceil(0.99 * (known.length - 1))];
  const span = high - low || 1;
  return { codes: Int16Array.from(numbers, (one) => (one === null ? -1 : Math.max(0, Math.min(STEPS - 1, Math.floor(((one - low) / span) * STEPS))))), low, high };
}
