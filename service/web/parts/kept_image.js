// An image to search by cannot be in an address. A small copy stays in this tab under a short name, and the name is in the address,
// so that reloading and going back work.

const LONGEST = 512;

/** Keeps a reduced copy of an image file and returns its name. */
export async function keepImage(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const data = canvas.toDataURL("image/jpeg", 0.92);
  const name = Date.now().toString(36);
  sessionStorage.setItem(`image.${name}`, data);
  return name;
}

/** The kept copy as a Blob, or null when it was kept somewhere else. */
export function keptImage(name) {
  const data = sessionStorage.getItem(`image.${name}`);
  if (!data) return null;
  const bytes = Uint8Array.from(atob(data.slice(data.indexOf(",") + 1)), (one) => one.charCodeAt(0));
  return new Blob([bytes], { type: "image/jpeg" });
}
