// The lineage graph made readable: like things are drawn as one, each kind has its lane, and rounds follow one another downwards. Pure.

const LANES = ["frame", "batch", "label", "dataset", "workflow", "model"];
const NODE_WIDTH = 190;
const NODE_HEIGHT = 66;
const THUMBS_HEIGHT = 72;
const COLUMN = 234;
const ROW_GAP = 22;
const MARGIN = 32;
const TITLE_HEIGHT = 34;

/** Frames (and labels) that hang together with the same other things become one group node with `members`. */
export function collapse({ nodes, edges, id }) {
  const groupable = (node) => (node.kind === "frame" || node.kind === "label") && node.id !== id;
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const neighbours = new Map(nodes.map((node) => [node.id, []]));
  for (const edge of edges) {
    // Frames and labels are one to one; they must not keep each other from being grouped.
    const [from, to] = [byId.get(edge.from), byId.get(edge.to)];
    if (!groupable(to)) neighbours.get(edge.from).push(`>${edge.to}`);
    if (!groupable(from)) neighbours.get(edge.to).push(`<${edge.from}`);
  }
  const groups = new Map();
  const home = new Map();
  for (const node of nodes) {
    const key = groupable(node) ? `${node.kind}|${[...new Set(neighbours.get(node.id))].sort().join("|")}` : node.id;
    if (!groups.has(key)) groups.set(key, { ...node, id: key, members: [] });
    groups.get(key).members.push(node);
    home.set(node.id, key);
  }
  for (const group of groups.values()) if (group.members.length === 1) Object.assign(group, group.members[0], { key: group.id, members: group.members });
  const links = new Map();
  for (const edge of edges) {
    const [from, to] = [home.get(edge.from), home.get(edge.to)];
    if (from !== to) links.set(`${from}\u0000${to}`, { from, to, kind: edge.kind });
  }
  return { nodes: [...groups].map(([key, node]) => ({ ...node, key })), edges: [...links.values()] };
}

/** Gives each node x, y, width and height; the lanes' titles and the drawing's size come along. */
export function layout(graph) {
  const { nodes } = graph;
  const edges = withoutDetours(nodes, graph.edges);
  const lanes = LANES.map((kind) => nodes.filter((node) => node.kind === kind));
  const filled = lanes.filter((lane) => lane.length);
  const before = predecessors(nodes, edges);
  const time = moments(nodes, edges);
  filled.forEach((lane, column) => {
    lane.sort((a, b) => time.get(a.key).localeCompare(time.get(b.key)) || a.key.localeCompare(b.key));
    let free = MARGIN + TITLE_HEIGHT;
    for (const node of lane) {
      const height = NODE_HEIGHT + (node.kind === "frame" ? THUMBS_HEIGHT : 0);
      // Beside the last of what it came from: that is the round that made it.
      const wish = Math.max(0, ...before.get(node.key).map((one) => one.y + one.height / 2)) - height / 2;
      Object.assign(node, { x: MARGIN + column * COLUMN, y: Math.max(free, wish), width: NODE_WIDTH, height });
      free = node.y + height + ROW_GAP;
    }
  });
  return {
    nodes,
    edges,
    titles: filled.map((lane, column) => ({ kind: lane[0].kind, x: MARGIN + column * COLUMN, y: MARGIN + 6 })),
    width: 2 * MARGIN + (filled.length - 1) * COLUMN + NODE_WIDTH,
    height: Math.max(...nodes.map((node) => node.y + node.height)) + MARGIN,
  };
}

/** From frames to labels only where no batch stands between them. */
function withoutDetours(nodes, edges) {
  const kind = new Map(nodes.map((node) => [node.key, node.kind]));
  const batched = new Set(edges.filter((edge) => kind.get(edge.from) === "frame" && kind.get(edge.to) === "batch").map((edge) => edge.from));
  return edges.filter((edge) => !(kind.get(edge.from) === "frame" && kind.get(edge.to) === "label" && batched.has(edge.from)));
}

/** For each node, the nodes in lanes further left that lead to it. */
function predecessors(nodes, edges) {
  const byKey = new Map(nodes.map((node) => [node.key, node]));
  const found = new Map(nodes.map((node) => [node.key, []]));
  for (const edge of edges) {
    const [from, to] = [byKey.get(edge.from), byKey.get(edge.to)];
    if (isForward(from, to)) found.get(to.key).push(from);
  }
  return found;
}

export const isForward = (from, to) => LANES.indexOf(from.kind) < LANES.indexOf(to.kind);

/** When each node came to be; frames and labels count from their batch. */
function moments(nodes, edges) {
  const byKey = new Map(nodes.map((node) => [node.key, node]));
  const found = new Map(nodes.map((node) => [node.key, node.created_at || ""]));
  for (const edge of edges) {
    const [from, to] = [byKey.get(edge.from), byKey.get(edge.to)];
    if (from.kind === "frame" && to.kind === "batch") found.set(from.key, to.created_at || "");
    if (from.kind === "batch" && to.kind === "label") found.set(to.key, from.created_at || "");
  }
  return found;
}
