// The panel of one node, and charts, for which plotly's script is unpacked when the first is drawn.

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

let plotly = null;

function loadPlotly() {
  if (!plotly) {
    plotly = (async () => {
      const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (letter) => letter.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      const script = make("script");
      script.textContent = await new Response(stream).text();
      document.head.append(script);
      return window.Plotly;
    })();
  }
  return plotly;
}

async function drawChart(holder, data, layout = {}) {
  const Plotly = await loadPlotly();
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
  const axis = { gridcolor: line, zerolinecolor: line, automargin: true };
  await Plotly.react(holder, data, {
    margin: { l: 50, r: 12, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: 12 }, legend: { orientation: "h", y: 1.12 }, colorway: ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#0072b2", "#d55e00"],
    ...layout, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  }, { displayModeBar: false, responsive: true });
}

class Panel {
  constructor(scene, element, go) {
    Object.assign(this, { scene, element, go });
  }

  show(number) {
    this.element.hidden = number === null;
    if (number === null) return;
    const node = this.scene.nodes[number];
    const close = make("button", "Close", { class: "close", type: "button" });
    close.addEventListener("click", () => this.go(null));
    this.element.replaceChildren(close, make("h2", node.name));
    this.element.append(this.kind(node), this.facts(node));
    this.counterparts(number);
    for (const weight of this.scene.weights) if (weight.nodes.includes(number)) this.weight(weight);
    node.facts.forEach((facts, side) => facts && this.side(facts, side, node));
    this.neighbours(number);
    this.element.scrollTop = 0;
  }

  kind(node) {
    const line = make("p");
    if (this.scene.models.length < 2) line.append(make("b", node.op));
    else {
      const kind = make("span", KINDS[node.kind].word, { class: "kind" });
      kind.style.background = KINDS[node.kind].colour;
      kind.style.color = inkOn(KINDS[node.kind].colour);
      const change = this.scene.changes[node.change];
      line.append(kind, ` ${change.pattern}`);
    }
    return line;
  }

  facts(node) {
    const rows = [];
    const change = this.scene.changes[node.change];
    if (change && change.how) rows.push(["aligned by", change.how]);
    if (change && change.values[0]) rows.push(["value", change.values[0]]);
    if (change && change.values[1] && change.values[1] !== change.values[0]) rows.push(["its counterpart", change.values[1]]);
    const error = change && change.error;
    if (error) {
      rows.push(["SQNR", error.max_abs === 0 ? "equal" : error.sqnr_db === null ? "–" : `${error.sqnr_db.toFixed(1)} dB`]);
      rows.push(["SQNR of its inputs", error.input_sqnr_db === null ? "equal" : `${error.input_sqnr_db.toFixed(1)} dB`]);
      if (error.cosine !== null) rows.push(["cosine", error.cosine.toFixed(5)]);
      rows.push(["largest difference", `${error.max_abs.toPrecision(3)} of ${error.scale.toPrecision(3)}`]);
    }
    const times = node.us.map((time) => (time === null ? null : timeText(time)));
    if (times.some((time) => time !== null)) rows.push(["time of its part", times.filter((time) => time !== null).join(" → ")]);
    if (node.bytes.some((size) => size)) rows.push(["weights", node.side === 0 && this.scene.models.length > 1 ? node.bytes.map(bytesText).join(" → ") : bytesText(Math.max(...node.bytes))]);
    return this.table(rows);
  }

  table(rows) {
    const table = make("table");
    for (const [word, value] of rows) {
      const row = make("tr");
      row.append(make("th", word, { scope: "row" }), make("td", value));
      table.append(row);
    }
    return table;
  }

  weight(weight) {
    this.element.append(make("h3", "Encoding of the weight"));
    const head = ["", ...(weight.names.length > 1 ? ["before", "after"] : ["weight"])];
    const text = (grid, key) => {
      const found = grid[key];
      if (found === undefined || found === null) return "–";
      if (key === "bytes") return bytesText(found);
      if (key === "shape") return found.join(" × ");
      if (Array.isArray(found)) return found[0] === found[1] ? `${+found[0].toPrecision(4)}` : `${+found[0].toPrecision(4)} to ${+found[1].toPrecision(4)}`;
      return found;
    };
    const table = make("table", null, { class: "encoding" });
    const top = make("tr");
    top.append(...head.map((word) => make("th", word, { scope: "col" })));
    table.append(top);
    const rows = [["name", weight.names], ...[["type", "dtype"], ["shape", "shape"], ["bytes", "bytes"], ["one scale per", "granularity"], ["scale", "scale"], ["zero point", "zero_point"]]
      .map(([word, key]) => [word, weight.grids.map((grid) => text(grid, key))])];
    for (const [word, cells] of rows) {
      if (cells.every((cell) => cell === "–")) continue;
      const row = make("tr");
      row.append(make("th", word, { scope: "row" }), ...cells.map((cell) => make("td", cell)));
      table.append(row);
    }
    this.element.append(table);
    if (weight.cosine !== null) this.element.append(make("p", `cosine of both: ${weight.cosine.toFixed(5)}`));
    if (weight.edges.length) this.histogram(weight);
  }

  histogram(weight) {
    const holder = make("div", null, { class: "chart", role: "img", "aria-label": "Histogram of the weight" });
    this.element.append(holder);
    const middles = weight.edges.slice(1).map((edge, place) => (edge + weight.edges[place]) / 2);
    const data = weight.heights.map((heights, side) => heights && {
      x: middles, y: heights, type: "scatter", mode: "lines", line: { shape: "hvh", dash: side ? "dot" : "solid" }, fill: side ? "none" : "tozeroy",
      name: weight.heights.length > 1 ? ["before", "after, real values"][side] : "values",
    }).filter(Boolean);
    drawChart(holder, data, { yaxis: { type: "log", title: { text: "elements" } }, showlegend: data.length > 1 });
  }

  side(facts, side, node) {
    const both = this.scene.models.length > 1;
    this.element.append(make("h3", both ? `In ${this.scene.models[side]}` : "Node"));
    const operator = facts.domain ? `${facts.domain}.${node.op}` : node.op;
    const rows = [["operator", operator], ["name", facts.name]];
    for (const [name, type, constant] of facts.inputs) rows.push([constant ? "reads constant" : "reads", `${name}: ${type}`]);
    for (const [name, type] of facts.outputs) rows.push(["gives", `${name}: ${type}`]);
    for (const [name, value] of Object.entries(facts.attributes)) rows.push([name, value]);
    this.element.append(this.table(rows));
  }

  links(title, numbers) {
    if (!numbers.length) return;
    this.element.append(make("h3", title));
    const list = make("div");
    for (const number of [...new Set(numbers)].slice(0, 24)) {
      const node = this.scene.nodes[number];
      const button = make("button", `${KINDS[node.kind].mark}${node.op} ${node.name}`, { class: "go", type: "button" });
      button.addEventListener("click", () => this.go(number));
      list.append(button, make("br"));
    }
    this.element.append(list);
  }

  counterparts(number) {
    const side = this.scene.nodes[number].side;
    this.links(side === 1 ? "Computed there by" : "Was computed by", this.scene.counterparts(number));
  }

  neighbours(number) {
    this.links("Reads", this.scene.feeders[number].map(([other]) => other));
    this.links("Is read by", this.scene.readers[number].map(([other]) => other));
  }
}
