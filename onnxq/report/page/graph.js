// The graph on canvases: one camera, one or two panes, drawn again whenever something changes.

const BOX = { width: 150, height: 30, x: 168, y: 58 };
const STACKED = { height: 25, shift: 13.5 };
const SMALLEST_TEXT = 0.42;

// The last parts of a layer's name, of a numbered one the number: "encoder/layer.0/attention/self" is "0/attention/self".
function shortScope(name) {
  const parts = name.split("/");
  const numbered = parts.findLastIndex((part) => /\.\d+$/.test(part));
  if (numbered < 0 || numbered === parts.length - 1) return parts.slice(-2).join("/");
  return [parts[numbered].split(".").pop(), ...parts.slice(numbered + 1)].join("/");
}

class Scene {
  constructor(picture) {
    Object.assign(this, picture);
    this.readers = this.nodes.map(() => []);
    this.feeders = this.nodes.map(() => []);
    for (const [source, target, side] of this.edges) {
      this.readers[source].push([target, side]);
      this.feeders[target].push([source, side]);
    }
    this.byChange = new Map();
    this.nodes.forEach((node, number) => {
      if (node.change === null) return;
      if (!this.byChange.has(node.change)) this.byChange.set(node.change, []);
      this.byChange.get(node.change).push(number);
    });
    this.prepared = this.levels.map((level) => null);
  }

  // The boxes of a level: single nodes, or groups of the nodes of a layer.
  level(number) {
    if (this.prepared[number]) return this.prepared[number];
    const level = this.levels[number];
    const boxes = level.x.map((x, place) => ({ x: x * BOX.x, y: level.y[place] * BOX.y, members: [], name: level.names ? level.names[place] : "" }));
    this.nodes.forEach((node, place) => boxes[level.member ? level.member[place] : place].members.push(place));
    const sides = new Map();
    for (const [source, target, side] of this.edges) {
      const [from, to] = level.member ? [level.member[source], level.member[target]] : [source, target];
      if (from === to) continue;
      const key = from * boxes.length + to;
      sides.set(key, sides.has(key) && sides.get(key) !== side ? 0 : side);
    }
    const edges = [...sides].map(([key, side]) => [boxes[Math.floor(key / boxes.length)], boxes[key % boxes.length], side]);
    const slots = new Map();
    if (!level.member) this.nodes.forEach((node, place) => slots.set(node.slot, [...(slots.get(node.slot) || []), boxes[place]]));
    for (const pair of slots.values()) if (pair.length > 1) pair.forEach((box) => { box.stack = this.nodes[box.members[0]].side === 1 ? -1 : 1; });
    for (const box of boxes) {
      const members = box.members.map((place) => this.nodes[place]);
      box.single = members.length === 1;
      box.sides = [1, 2].map((side) => members.some((node) => node.side === 0 || node.side === side));
      box.label = box.single ? members[0].op : shortScope(box.name);
      box.count = members.length;
    }
    return (this.prepared[number] = { boxes, edges, member: level.member });
  }

  boxOf(level, node) {
    const prepared = this.level(level);
    return prepared.boxes[prepared.member ? prepared.member[node] : node];
  }

  // Other nodes that compute the same value, in the other model.
  counterparts(number) {
    const node = this.nodes[number];
    if (node.side === 0 || node.change === null) return [];
    return this.byChange.get(node.change).filter((other) => this.nodes[other].side === 3 - node.side);
  }
}

class Colouring {
  constructor(scene, name) {
    Object.assign(this, COLOURINGS[name]);
    this.scene = scene;
    if (!this.quantity) return;
    const known = scene.nodes.flatMap((node) => [0, 1].map((side) => this.quantity(node, side))).filter((x) => x !== null);
    this.low = Math.min(...known);
    this.high = Math.max(...known);
    this.any = known.length > 0;
  }

  // The colours of a box, from left to right, each with its share of the width.
  colours(box, side, over) {
    const members = box.members.map((place) => this.scene.nodes[place]).filter((node) => node.side === 0 || node.side === side + 1);
    if (!members.length) return [[NOTHING, 1]];
    if (!this.quantity) {
      const counts = new Map();
      for (const node of members) {
        const colour = this.of(node, over);
        counts.set(colour, (counts.get(colour) || 0) + 1 / members.length);
      }
      return [...counts].sort((a, b) => b[1] - a[1]);
    }
    const known = members.map((node) => this.quantity(node, side)).filter((x) => x !== null);
    if (!known.length) return [[NOTHING, 1]];
    const worth = Math.max(...known);
    return [[ramp(this.high > this.low ? (worth - this.low) / (this.high - this.low) : 0.5), 1]];
  }

  entries() {
    if (!this.quantity) return this.legend(this.scene);
    return this.any ? [[null, `${this.text(this.low)} to ${this.text(this.high)}`], [NOTHING, "not known"]] : [[NOTHING, "not known: give data"]];
  }
}

class GraphView {
  constructor(scene, holder, onSelect, onLevel) {
    Object.assign(this, { scene, holder, onSelect, onLevel });
    this.camera = { x: 0, y: 0, scale: 1 };
    this.selected = null;
    this.hits = new Set();
    this.lit = new Set();
    this.panes = [];
    this.levelNumber = this.startLevel();
    this.setColour("change");
    new ResizeObserver(() => this.draw()).observe(holder);
  }

  startLevel() {
    const whole = this.scene.levels.length - 1;
    if (this.scene.nodes.length <= 150) return whole;
    const fitting = this.scene.levels.slice(0, whole).filter((level) => level.x.length <= 60).length;
    return whole ? Math.max(fitting - 1, 0) : whole;
  }

  setColour(name) {
    this.colourName = name;
    this.colouring = new Colouring(this.scene, name);
    this.colours = new Map();
    this.draw();
  }

  // "side" shows both models beside each other; "over" one graph; "before" and "after" one of them.
  setView(view) {
    const names = this.scene.models;
    this.view = view;
    this.holder.replaceChildren();
    this.panes = { side: [[1], [2]], over: [[1, 2]], before: [[1]], after: [[2]] }[view].map((sides) => {
      const pane = document.createElement("div");
      const canvas = document.createElement("canvas");
      const label = document.createElement("div");
      pane.className = "pane";
      label.className = "name";
      label.textContent = sides.length > 1 ? names.join(" over ") : names[sides[0] - 1];
      canvas.tabIndex = 0;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Graph of ${label.textContent}; the table has the same content`);
      pane.append(canvas, label);
      this.holder.append(pane);
      this.listen(canvas, sides);
      return { canvas, sides };
    });
    document.getElementById("stage").classList.toggle("side", view === "side");
    this.draw();
  }

  setLevel(number, around) {
    this.levelNumber = Math.min(Math.max(number, 0), this.scene.levels.length - 1);
    this.colours.clear();
    if (around === undefined) this.fit();
    else this.goTo(around);
    this.onLevel();
  }

  get level() { return this.scene.level(this.levelNumber); }

  shown(box, sides) { return sides.some((side) => box.sides[side - 1]); }

  size() {
    const canvas = this.panes[0].canvas;
    return [canvas.clientWidth || 800, canvas.clientHeight || 600];
  }

  // All of it if that can be read; else the width, from the top.
  fit() {
    const boxes = this.level.boxes;
    const [width, height] = this.size();
    const span = (key) => boxes.reduce(([low, high], box) => [Math.min(low, box[key]), Math.max(high, box[key])], [Infinity, -Infinity]);
    const [left, right] = span("x"), [top, bottom] = span("y");
    const byWidth = width / (right - left + BOX.x * 1.4), byHeight = height / (bottom - top + BOX.y * 2.4);
    const scale = Math.min(Math.max(Math.min(byWidth, byHeight), Math.min(byWidth, 0.5), 0.08), 1.3);
    const all = byHeight >= scale * 0.99;
    this.camera = { x: (left + right) / 2, y: all ? (top + bottom) / 2 : top + height / scale / 2 - BOX.y, scale };
    this.draw();
  }

  // Where all of it would be too small to read: the first box, large enough.
  readable() {
    this.fit();
    if (this.camera.scale >= SMALLEST_TEXT) return;
    const first = this.level.boxes.reduce((one, box) => (box.y < one.y ? box : one));
    const scale = SMALLEST_TEXT + 0.02;
    this.camera = { x: first.x, y: first.y + this.size()[1] / scale / 2 - BOX.y, scale };
    this.draw();
  }

  goTo(number) {
    const box = this.scene.boxOf(this.levelNumber, number);
    this.camera.x = box.x;
    this.camera.y = box.y;
    this.camera.scale = Math.max(this.camera.scale, 0.7);
    this.draw();
  }

  select(number, { move = false } = {}) {
    this.selected = number;
    this.lit = new Set(number === null ? [] : this.scene.counterparts(number));
    if (move && number !== null) this.goTo(number);
    this.draw();
    this.onSelect(number);
  }

  zoom(factor, at) {
    const [width, height] = this.size();
    const point = at || [width / 2, height / 2];
    const { x, y, scale } = this.camera;
    const next = Math.min(Math.max(scale * factor, 0.02), 3);
    this.camera = { x: x + (point[0] - width / 2) * (1 / scale - 1 / next), y: y + (point[1] - height / 2) * (1 / scale - 1 / next), scale: next };
    this.draw();
  }

  listen(canvas, sides) {
    let last = null, moved = 0;
    canvas.addEventListener("pointerdown", (event) => {
      last = [event.clientX, event.clientY];
      moved = 0;
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      const [x, y] = [event.clientX - last[0], event.clientY - last[1]];
      moved += Math.abs(x) + Math.abs(y);
      last = [event.clientX, event.clientY];
      this.camera.x -= x / this.camera.scale;
      this.camera.y -= y / this.camera.scale;
      this.draw();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (last && moved < 5) this.click(this.boxAt(event, canvas, sides), sides);
      last = null;
    });
    canvas.addEventListener("dblclick", (event) => {
      const box = this.boxAt(event, canvas, sides);
      if (box && !box.single) this.setLevel(this.scene.levels.length - 1, box.members[0]);
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * 0.0016), [event.offsetX, event.offsetY]);
    }, { passive: false });
  }

  click(box, sides) {
    if (!box) return this.select(null);
    const members = box.members.filter((place) => [0, ...sides].includes(this.scene.nodes[place].side));
    const telling = members.find((place) => this.scene.nodes[place].kind !== "same");
    this.select(telling === undefined ? members[0] : telling);
  }

  boxAt(event, canvas, sides) {
    const { x, y, scale } = this.camera;
    const px = (event.offsetX - canvas.clientWidth / 2) / scale + x;
    const py = (event.offsetY - canvas.clientHeight / 2) / scale + y;
    return this.level.boxes.find((box) => {
      const [top, height] = this.extent(box, sides);
      return Math.abs(box.x - px) <= BOX.width / 2 && py >= top && py <= top + height && this.shown(box, sides);
    });
  }

  // Top and height of a box: where both models lie over each other, what replaces lies below what it replaces.
  extent(box, sides) {
    if (!box.stack || sides.length < 2) return [box.y - BOX.height / 2, BOX.height];
    return [box.y + box.stack * STACKED.shift - STACKED.height / 2, STACKED.height];
  }

  draw() {
    if (this.waiting || !this.panes.length) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      for (const pane of this.panes) this.paint(pane);
    });
  }

  paint({ canvas, sides }) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const style = getComputedStyle(document.documentElement);
    const draw = canvas.getContext("2d");
    const { x, y, scale } = this.camera;
    draw.setTransform(1, 0, 0, 1, 0, 0);
    draw.fillStyle = style.getPropertyValue("--back");
    draw.fillRect(0, 0, canvas.width, canvas.height);
    draw.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * (width / 2 - x * scale), ratio * (height / 2 - y * scale));
    const near = {
      left: x - width / 2 / scale - BOX.width, right: x + width / 2 / scale + BOX.width,
      top: y - height / 2 / scale - BOX.height, bottom: y + height / 2 / scale + BOX.height,
    };
    this.paintEdges(draw, sides, near, style.getPropertyValue("--edge"));
    for (const box of this.level.boxes) {
      if (box.x < near.left || box.x > near.right || box.y < near.top || box.y > near.bottom) continue;
      if (this.shown(box, sides)) this.paintBox(draw, box, sides, style);
    }
  }

  paintEdges(draw, sides, near, colour) {
    draw.strokeStyle = colour;
    draw.lineWidth = Math.min(1.3 / this.camera.scale, 3);
    for (const dashed of [false, true]) {
      draw.setLineDash(dashed ? [5, 4] : []);
      draw.beginPath();
      for (const [from, to, side] of this.level.edges) {
        if (side !== 0 && !sides.includes(side)) continue;
        if (dashed !== (sides.length > 1 && side === 1)) continue;
        if (Math.max(from.y, to.y) < near.top || Math.min(from.y, to.y) > near.bottom) continue;
        const start = from.y + BOX.height / 2, end = to.y - BOX.height / 2, bend = Math.min(Math.max((end - start) / 2, 8), 60);
        draw.moveTo(from.x, start);
        draw.bezierCurveTo(from.x, start + bend, to.x, end - bend, to.x, end);
      }
      draw.stroke();
    }
    draw.setLineDash([]);
  }

  paintBox(draw, box, sides, style) {
    const side = sides.length > 1 ? (box.sides[1] ? 1 : 0) : sides[0] - 1;
    const key = `${side} ${sides.length}`;
    if (!this.colours.has(box)) this.colours.set(box, {});
    const colours = this.colours.get(box);
    const shares = colours[key] || (colours[key] = this.colouring.colours(box, side, sides.length > 1));
    const left = box.x - BOX.width / 2;
    const [top, height] = this.extent(box, sides);
    const outline = () => {
      draw.beginPath();
      if (this.camera.scale > 0.25) draw.roundRect(left, top, BOX.width, height, box.single ? 6 : 2);
      else draw.rect(left, top, BOX.width, height);
    };
    outline();
    draw.fillStyle = shares[0][0];
    draw.fill();
    let at = left + shares[0][1] * BOX.width;
    for (const [colour, share] of shares.slice(1)) {
      draw.fillStyle = colour;
      draw.fillRect(at, top, share * BOX.width, height);
      at += share * BOX.width;
    }
    if (shares.length > 1) outline();
    this.paintBorder(draw, box, sides, style);
    if (this.camera.scale < SMALLEST_TEXT) return;
    const node = this.scene.nodes[box.members[0]];
    const mark = box.single ? kindOf(node, sides.length > 1).mark : "";
    draw.fillStyle = inkOn(shares[0][0]);
    draw.font = "13px system-ui, 'DejaVu Sans', sans-serif";
    draw.textAlign = "center";
    draw.textBaseline = "middle";
    const text = box.single ? mark + box.label : `${box.label} (${box.count})`;
    draw.fillText(text.length > 24 ? `${text.slice(0, 11)}…${text.slice(-11)}` : text, box.x, top + height / 2, BOX.width - 8);
  }

  paintBorder(draw, box, sides, style) {
    const has = (set) => box.members.some((place) => set.has(place));
    const chosen = this.selected !== null && box.members.includes(this.selected);
    if (chosen || has(this.lit)) {
      draw.strokeStyle = style.getPropertyValue("--halo");
      draw.lineWidth = 4 / Math.min(this.camera.scale, 1);
      draw.setLineDash(chosen ? [] : [7, 4]);
      draw.stroke();
    } else if (has(this.hits)) {
      draw.strokeStyle = style.getPropertyValue("--accent");
      draw.lineWidth = 3 / Math.min(this.camera.scale, 1);
      draw.stroke();
    } else {
      draw.strokeStyle = "rgba(0,0,0,.28)";
      draw.lineWidth = 1;
      draw.setLineDash(sides.length > 1 && !box.sides[1] ? [4, 3] : []);
      draw.stroke();
    }
    draw.setLineDash([]);
  }
}
