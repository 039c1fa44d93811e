// Routes over the history API. All page state is in the address, so every view is a link that can be shared.

const routes = [];
let missing = () => {}; // what to show where there is no page
let here = null; // { pattern, key, page }

export function route(pattern, page) {
  const names = [];
  const source = pattern.replace(/\{(\w+)\}/g, (_, name) => (names.push(name), "([^/]+)"));
  routes.push({ pattern, names, regex: new RegExp(`^${source}/?$`), page });
}

/** What to show at an address that is no page. */
export function otherwise(page) {
  missing = page;
}

export function query() {
  return Object.fromEntries(new URLSearchParams(location.search));
}

/** Goes to `url`; with `replace` the current history entry is rewritten instead. */
export function go(url, { replace = false, state = null } = {}) {
  if (url === location.pathname + location.search && !replace) return show();
  history[replace ? "replaceState" : "pushState"](state, "", url);
  return show();
}

/** The current address with some of its parameters changed (null or "" removes one). */
export function withQuery(changes) {
  const params = new URLSearchParams(location.search);
  for (const [key, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") params.delete(key);
    else params.set(key, value);
  }
  const tail = params.toString();
  return location.pathname + (tail ? `?${tail}` : "");
}

function show() {
  const path = location.pathname;
  for (const { pattern, names, regex, page } of routes) {
    const found = regex.exec(path);
    if (!found) continue;
    const params = Object.fromEntries(names.map((name, i) => [name, decoded(found[i + 1])]));
    const key = pattern + JSON.stringify(params);
    if (here && here.key === key && here.page.update) return here.page.update(query());
    return open(key, params, page);
  }
  return open("missing", {}, missing);
}

function open(key, params, page) {
  here?.page.close?.();
  markNav(location.pathname);
  document.getElementById("slot").textContent = "";
  const home = document.getElementById("page");
  home.textContent = "";
  here = { key, page: page(home, params, query()) || {} };
}

/** A part of the path as it was meant; one that is badly written stands for itself. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function markNav(path) {
  for (const link of document.querySelectorAll("#nav a")) {
    const to = link.getAttribute("href");
    const inside = to === "/" ? path === "/" : path.startsWith(to) || (to === "/models" && path.startsWith("/workflows")) || (to === "/plans" && path === "/new-plan");
    if (inside) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

export function start() {
  window.addEventListener("popstate", show);
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target.closest?.("a[href]");
    if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
    const path = link.pathname;
    if (!routes.some(({ regex }) => regex.test(path))) return;
    event.preventDefault();
    go(path + link.search);
  });
  show();
}
