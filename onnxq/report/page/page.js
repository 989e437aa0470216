// What happens on the page: tabs, search, keys, and an address that tells what is seen.

const content = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const scene = content.picture ? new Scene(content.picture) : null;
const state = { tab: null, hits: [], hit: -1 };
let graph = null, panel = null, filling = [];

function options(select, entries, onChange) {
  select.append(...entries.map(([value, word]) => make("option", word, { value })));
  select.addEventListener("change", () => onChange(select.value));
}

function remember() {
  const parts = new URLSearchParams();
  if (state.tab) parts.set("tab", state.tab);
  if (graph) {
    if (graph.selected !== null) parts.set("node", scene.nodes[graph.selected].name);
    if (scene.models.length > 1) parts.set("view", graph.view);
    parts.set("colour", graph.colourName);
    parts.set("level", graph.levelNumber);
  }
  history.replaceState(null, "", `#${parts.toString()}`);
}

function openTab(name) {
  state.tab = name;
  for (const tab of find("tabs").children) tab.setAttribute("aria-selected", String(tab.dataset.tab === name));
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== name;
  if (name === "tables") openTables();
  if (name === "charts") openCharts();
  if (name === "graph" && graph) graph.draw();
  remember();
}

function openTables() {
  if (filling.length) return;
  const all = content.tables.map((table) => new SortedTable(table));
  if (scene) all.push(new SortedTable(nodesTable(scene), (place) => { openTab("graph"); visit(place); }));
  const filter = make("input", null, { type: "search", placeholder: "filter rows", "aria-label": "Filter rows" });
  filter.addEventListener("input", () => all.forEach((table) => table.fill(filter.value)));
  const bar = make("div", null, { class: "bar" });
  bar.append(filter, ...all.map((table) => {
    const jump = make("button", table.title, { type: "button" });
    jump.addEventListener("click", () => table.element.scrollIntoView({ behavior: "smooth" }));
    return jump;
  }));
  filling = all.map((table) => table.build());
  find("tables").replaceChildren(bar, ...all.map((table) => table.element));
}

function openCharts() {
  if (find("charts").childElementCount) return;
  for (const chart of content.charts) {
    const article = make("article", null, chart.wide ? { class: "wide" } : {});
    const holder = make("div", null, { class: "chart", role: "img", "aria-label": chart.title });
    if (chart.layout.height) holder.style.height = `${chart.layout.height}px`;
    article.append(make("h2", chart.title), ...(chart.note ? [make("p", chart.note)] : []), holder);
    find("charts").append(article);
    drawChart(holder, chart.data, chart.layout);
  }
}

function repaint() {
  if (graph) graph.draw();
  if (find("charts").childElementCount) {
    find("charts").replaceChildren();
    if (state.tab === "charts") openCharts();
  }
  if (graph && graph.selected !== null) panel.show(graph.selected);
}

function turnTheme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  repaint();
}

function visit(number) {
  if (number === null) return graph.select(null);
  if (!scene.boxOf(graph.levelNumber, number).single) graph.setLevel(scene.levels.length - 1, number);
  const side = scene.nodes[number].side;
  if (side && ["before", "after"].includes(graph.view) && graph.view !== ["before", "after"][side - 1]) setView("side");
  graph.select(number, { move: true });
}

function search(text) {
  const wanted = text.trim().toLowerCase();
  const fits = (node) => node.name.toLowerCase().includes(wanted) || node.op.toLowerCase().includes(wanted) ||
    node.facts.some((facts) => facts && [...facts.outputs, ...facts.inputs].some(([name]) => name.toLowerCase().includes(wanted)));
  state.hits = wanted ? scene.nodes.map((node, place) => (fits(node) ? place : -1)).filter((place) => place >= 0) : [];
  state.hits.sort((a, b) => exactness(scene.nodes[a], wanted) - exactness(scene.nodes[b], wanted) || a - b);
  state.hit = -1;
  graph.hits = new Set(state.hits);
  find("hits").textContent = wanted ? `${state.hits.length} found` : "";
  graph.draw();
}

function exactness(node, wanted) {
  const name = node.name.toLowerCase();
  return name === wanted ? 0 : name.includes(wanted) ? 1 : node.op.toLowerCase().includes(wanted) ? 2 : 3;
}

function nextHit(step) {
  if (!state.hits.length) return;
  state.hit = (state.hit + step + state.hits.length) % state.hits.length;
  find("hits").textContent = `${state.hit + 1} of ${state.hits.length}`;
  visit(state.hits[state.hit]);
}

function setView(view) {
  graph.setView(view);
  find("view").value = view;
  remember();
}

function setColour(name) {
  graph.setColour(name);
  find("colour").value = name;
  const entries = graph.colouring.entries().map(([colour, word]) => {
    const entry = make("span"), box = make("i");
    box.style.background = colour || `linear-gradient(to right, ${RAMP.join(",")})`;
    if (!colour) box.className = "ramp";
    entry.append(box, word);
    return entry;
  });
  find("legend").replaceChildren(...entries);
  remember();
}

// From the selected node along the edges, or to the node beside it.
function walk(direction) {
  if (graph.selected === null) return;
  const from = scene.boxOf(graph.levelNumber, graph.selected);
  if (direction === "up" || direction === "down") {
    const [next] = (direction === "up" ? scene.feeders : scene.readers)[graph.selected];
    if (next) visit(next[0]);
    return;
  }
  const beside = graph.level.boxes.filter((box) => box !== from && Math.abs(box.y - from.y) < 1 && (direction === "left" ? box.x < from.x : box.x > from.x));
  beside.sort((a, b) => Math.abs(a.x - from.x) - Math.abs(b.x - from.x));
  if (beside.length) visit(beside[0].members[0]);
}

const KEYS = {
  "/": () => find("search").focus(), f: () => graph.fit(), t: turnTheme, "?": () => find("keys").showModal(),
  "+": () => graph.zoom(1.25), "=": () => graph.zoom(1.25), "-": () => graph.zoom(0.8),
  "[": () => graph.setLevel(graph.levelNumber - 1), "]": () => graph.setLevel(graph.levelNumber + 1),
  1: () => setView("side"), 2: () => setView("over"), 3: () => setView("before"), 4: () => setView("after"),
  c: () => { const [other] = graph.selected === null ? [] : scene.counterparts(graph.selected); if (other !== undefined) visit(other); },
  ArrowUp: () => walk("up"), ArrowDown: () => walk("down"), ArrowLeft: () => walk("left"), ArrowRight: () => walk("right"),
  Escape: () => graph.select(null),
};

function onKey(event) {
  const typing = event.target.matches("input, select, textarea") || find("keys").open;
  if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
  if (event.key !== "t" && (state.tab !== "graph" || (scene.models.length < 2 && "1234".includes(event.key)))) return;
  if (Object.hasOwn(KEYS, event.key)) {
    event.preventDefault();
    KEYS[event.key]();
  }
}

function startGraph() {
  panel = new Panel(scene, find("panel"), visit);
  const onSelect = (number) => { panel.show(number); remember(); };
  const onLevel = () => { find("level").value = graph.levelNumber; remember(); };
  graph = new GraphView(scene, find("panes"), onSelect, onLevel);
  const views = scene.models.length > 1 ? [["side", "side by side"], ["over", "overlaid"], ["before", "before"], ["after", "after"]] : [["before", "the graph"]];
  const whole = scene.levels.length - 1;
  options(find("view"), views, setView);
  const ways = Object.entries(COLOURINGS).filter(([name]) => scene.models.length > 1 || !["change", "error"].includes(name));
  options(find("colour"), ways.map(([name, way]) => [name, way.word]), setColour);
  options(find("level"), scene.levels.map((level, place) => [place, place === whole ? `all ${scene.nodes.length} nodes` : `${level.x.length} parts`]), (value) => graph.setLevel(Number(value)));
  find("search").addEventListener("input", (event) => search(event.target.value));
  find("tools").addEventListener("submit", (event) => event.preventDefault());
  find("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter") nextHit(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") event.target.blur();
  });
  find("fit").addEventListener("click", () => graph.fit());
  find("help").addEventListener("click", () => find("keys").showModal());
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const known = [...find("tabs").children].map((tab) => tab.dataset.tab);
  const tab = known.includes(parts.get("tab")) ? parts.get("tab") : known[0];
  if (scene) {
    const views = [...find("view").options].map((option) => option.value);
    openTab("graph");
    graph.setView(views.includes(parts.get("view")) ? parts.get("view") : views[0]);
    find("view").value = graph.view;
    if (parts.has("level")) graph.levelNumber = Math.min(Math.max(Number(parts.get("level")) || 0, 0), scene.levels.length - 1);
    graph.readable();
    find("level").value = graph.levelNumber;
    const ways = [...find("colour").options].map((option) => option.value);
    setColour(ways.includes(parts.get("colour")) ? parts.get("colour") : ways[0]);
    const number = parts.has("node") ? scene.nodes.findIndex((node) => node.name === parts.get("node")) : -1;
    if (number >= 0) visit(number);
  }
  openTab(tab);
}

function start() {
  find("title").textContent = content.title;
  find("facts").append(...content.facts.map(([word, value]) => {
    const item = make("li", `${word} `);
    item.append(make("b", value));
    return item;
  }));
  const tabs = [["graph", "Graph", scene], ["charts", "Charts", content.charts.length], ["tables", "Tables", content.tables.length || scene]];
  for (const [name, word, there] of tabs) {
    if (!there) continue;
    const tab = make("button", word, { role: "tab", type: "button", "data-tab": name });
    tab.addEventListener("click", () => openTab(name));
    find("tabs").append(tab);
  }
  if (scene) startGraph();
  find("theme").addEventListener("click", turnTheme);
  addEventListener("keydown", onKey);
  addEventListener("hashchange", recall);
  addEventListener("beforeprint", () => graph && graph.panes.forEach((pane) => graph.paint(pane)));
  recall();
  requestAnimationFrame(() => requestAnimationFrame(() => {
    document.documentElement.dataset.ready = Math.round(performance.now());
  }));
}

start();
