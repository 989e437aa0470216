// Tables that sort and filter. Rows are made when a table is first seen, so that large ones cost nothing before.

const collator = new Intl.Collator("en", { numeric: true });

function numberIn(text) {
  const match = String(text).replaceAll(",", "").match(/-?\d+(\.\d+)?(e[-+]?\d+)?/i);
  if (!match) return null;
  const unit = /(\bMB|\bms)\b/.test(text) ? 1e6 : /(\bkB)\b/.test(text) ? 1e3 : 1;
  return parseFloat(match[0]) * unit;
}

class SortedTable {
  constructor({ title, columns, text, rows }, onRow) {
    Object.assign(this, { title, columns, text, rows, onRow });
    this.order = rows.map((_, place) => place);
    this.sorted = null;
    this.element = make("article");
  }

  build() {
    const table = make("table");
    table.append(make("caption", `${this.title} (${this.rows.length})`));
    const head = make("tr");
    this.heads = this.columns.map((word, column) => {
      const cell = make("th", null, { scope: "col", "aria-sort": "none", class: column < this.text ? "" : "number" });
      const button = make("button", word || "–", { type: "button" });
      button.addEventListener("click", () => this.sort(column));
      cell.append(button);
      head.append(cell);
      return cell;
    });
    const top = make("thead");
    top.append(head);
    this.body = make("tbody");
    table.append(top, this.body);
    this.element.replaceChildren(table);
    this.fill("");
    return this;
  }

  fill(query) {
    this.query = query;
    const wanted = query.toLowerCase();
    const rows = document.createDocumentFragment();
    for (const place of this.order) {
      const cells = this.rows[place];
      if (wanted && !cells.some((cell) => String(cell).toLowerCase().includes(wanted))) continue;
      const row = make("tr");
      cells.forEach((cell, column) => row.append(make("td", cell, column < this.text ? {} : { class: "number" })));
      if (this.onRow) {
        row.dataset.node = place;
        row.tabIndex = 0;
        row.addEventListener("click", () => this.onRow(place));
        row.addEventListener("keydown", (event) => event.key === "Enter" && this.onRow(place));
      }
      rows.append(row);
    }
    this.body.replaceChildren(rows);
  }

  sort(column) {
    const down = this.sorted === column ? !this.down : column >= this.text;
    Object.assign(this, { sorted: column, down });
    const compare = column < this.text
      ? (a, b) => collator.compare(this.rows[a][column], this.rows[b][column])
      : (a, b) => (numberIn(this.rows[a][column]) ?? -Infinity) - (numberIn(this.rows[b][column]) ?? -Infinity);
    this.order.sort((a, b) => (down ? -1 : 1) * compare(a, b) || a - b);
    this.heads.forEach((head, place) => head.setAttribute("aria-sort", place !== column ? "none" : down ? "descending" : "ascending"));
    this.fill(this.query);
  }
}

function nodesTable(scene) {
  const both = scene.models.length > 1;
  const sides = both ? ["before", "after"] : [""];
  const of = (numbers, text) => sides.map((_, side) => (numbers[side] ? text(numbers[side]) : ""));
  const timed = scene.nodes.some((node) => node.us.some((time) => time));
  const measured = scene.nodes.some((node) => node.error !== null);
  return {
    title: "Nodes", text: both ? 5 : 4,
    columns: ["node", "operator", ...(both ? ["change"] : []), "type", "layer", ...(measured ? ["SQNR dB"] : []),
      ...(timed ? sides.map((side) => `µs ${side}`.trim()) : []), ...sides.map((side) => `bytes ${side}`.trim())],
    rows: scene.nodes.map((node) => [node.name, node.op, ...(both ? [KINDS[node.kind].word] : []), node.dtype, node.scope,
      ...(measured ? [node.last && node.error !== null ? node.error.toFixed(1) : ""] : []),
      ...(timed ? of(node.last ? node.us : [0, 0], (time) => time.toFixed(1)) : []), ...of(node.bytes, String)]),
  };
}
