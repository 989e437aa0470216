// Colours that colour-blind people tell apart: Okabe and Ito's for kinds, cividis for quantities.

const KINDS = {
  same: { colour: "#c7ced6", mark: "", word: "same" },
  rewritten: { colour: "#e69f00", mark: "~ ", word: "~ rewritten" },
  replaced: { colour: "#56b4e9", mark: "≠ ", word: "≠ replaced" },
  added: { colour: "#009e73", mark: "+ ", word: "+ added" },
  removed: { colour: "#d55e00", mark: "− ", word: "− removed" },
};

// What the node is drawn as: where both models lie over each other, what is replaced is removed and added.
function kindOf(node, over) {
  return KINDS[over && node.kind === "replaced" ? ["same", "removed", "added"][node.side] : node.kind];
}

const TYPES = {
  float: "#c7ced6", float16: "#f0e442", bfloat16: "#f0e442", double: "#8a949e",
  int8: "#0072b2", uint8: "#56b4e9", int4: "#009e73", uint4: "#009e73",
  int16: "#cc79a7", uint16: "#cc79a7", int32: "#e69f00", int64: "#b9a06a", bool: "#7f6a93", "?": "#e7eaee",
};

const RAMP = ["#00224e", "#2a3f6d", "#575d6d", "#7d7c78", "#a59c74", "#d2c060", "#fee838"];
const NOTHING = "#e7eaee";

function mix(first, second, part) {
  const at = (text, place) => parseInt(text.slice(place, place + 2), 16);
  const one = (place) => Math.round(at(first, place) + (at(second, place) - at(first, place)) * part);
  return "#" + [1, 3, 5].map((place) => one(place).toString(16).padStart(2, "0")).join("");
}

function ramp(part) {
  const place = Math.min(Math.max(part, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(place), RAMP.length - 2);
  return mix(RAMP[low], RAMP[low + 1], place - low);
}

const inks = new Map();

function inkOn(colour) {
  if (!inks.has(colour)) {
    const part = (place) => {
      const level = parseInt(colour.slice(place, place + 2), 16) / 255;
      return level <= 0.03928 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4;
    };
    const luminance = 0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5);
    inks.set(colour, luminance > 0.18 ? "#000000" : "#ffffff");
  }
  return inks.get(colour);
}

function bytesText(bytes) {
  if (bytes >= 1e6) return `${(bytes / 1e6).toPrecision(3)} MB`;
  return bytes >= 1e3 ? `${(bytes / 1e3).toPrecision(3)} kB` : `${bytes} B`;
}

function timeText(microseconds) {
  return microseconds >= 1e3 ? `${(microseconds / 1e3).toPrecision(3)} ms` : `${microseconds.toPrecision(3)} µs`;
}

// Each way to colour says what a node is worth on one side (0 before, 1 after), and how to read the colour.
const COLOURINGS = {
  change: { word: "change", of: (node, over) => kindOf(node, over).colour,
    legend: () => Object.values(KINDS).map((kind) => [kind.colour, kind.word]) },
  dtype: { word: "type", of: (node) => TYPES[node.dtype] || "#8a949e",
    legend: (scene) => [...new Set(scene.nodes.map((node) => node.dtype))].sort().map((type) => [TYPES[type] || "#8a949e", type]) },
  error: { word: "error (SQNR)", quantity: (node) => (node.error === null ? null : -node.error), text: (x) => `${(-x).toFixed(1)} dB` },
  time: { word: "time", quantity: (node, side) => (node.last && node.us[side] ? Math.log10(node.us[side]) : null),
    text: (x) => timeText(10 ** x) },
  bytes: { word: "bytes of weights", quantity: (node, side) => (node.bytes[side] ? Math.log10(node.bytes[side]) : null),
    text: (x) => bytesText(10 ** x) },
};
