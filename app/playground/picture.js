// Draws what was measured. The picture's unit is UNIT pixels times the zoom; y points up.

const LETTERS = ["A", "B", "C"];
const UNIT = 150;
const WIDTH = 320; // half the picture
const HEIGHT = 230;

function make(tag, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

const planar = (arrows) => arrows.every((arrow) => Math.abs(arrow[2]) < 1e-9);
const angleOf = ([x, y]) => Math.atan2(y, x);

// As near as all tips stay in the picture, and arrows are no larger than they are easy to grasp.
function fittingZoom(tips) {
  const needed = Math.max(...tips.map(([x, y]) => Math.max((Math.abs(x) * UNIT) / (WIDTH - 45), (Math.abs(y) * UNIT) / (HEIGHT - 45))));
  return Math.min(1.4, 1 / Math.max(needed, 1e-9));
}

function draw(group, arrows, found, zoom, hidden) {
  const place = ([x, y]) => [x * UNIT * zoom, -y * UNIT * zoom];
  const line = (from, to, kind) => {
    const [[x1, y1], [x2, y2]] = [place(from), place(to)];
    return make("path", { d: `M${x1} ${y1}L${x2} ${y2}`, class: kind });
  };
  const withHead = (tip, kind, head, size) => {
    const [x, y] = place(tip);
    const length = Math.hypot(x, y);
    if (length < 2) return [];
    const [along, across] = [[x / length, y / length], [-y / length, x / length]];
    const back = Math.min(size, length);
    const base = [x - back * along[0], y - back * along[1]];
    const side = (sign) => base.map((value, axis) => value + sign * 0.45 * back * across[axis]).join(",");
    return [make("path", { d: `M0 0L${base.join(" ")}`, class: kind }), make("polygon", { points: `${x},${y} ${side(1)} ${side(-1)}`, class: head })];
  };

  const parts = [make("path", { d: `M${-WIDTH} 0H${WIDTH}M0 ${-HEIGHT}V${HEIGHT}`, class: "axis" })];
  const flat = planar(arrows);
  if (flat && !hidden) {
    found.ruled.falls.forEach((fall, i) => {
      if (fall > -1e-9) return;
      parts.push(make("rect", { x: -900, y: -900, width: 900, height: 1800, class: "harm", transform: `rotate(${(-angleOf(arrows[i]) * 180) / Math.PI})` }));
    });
    arrows.forEach((arrow, j) => {
      if (!found.projected.some((row) => row[j])) return;
      const length = Math.hypot(...arrow) * UNIT * zoom;
      const [x, y] = place(arrow).map((value) => (value / length) * 900);
      parts.push(make("path", { d: `M${y} ${-x}L${-y} ${x}`, class: `normal ${LETTERS[j]}` }));
    });
  }
  if (!hidden) {
    parts.push(...withHead(found.plain.update, "plain", "head plain-head", 14));
    parts.push(...withHead(found.ruled.update, "update", "head update-head", 18));
  }
  arrows.forEach((arrow, i) => parts.push(...withHead(arrow, `gradient ${LETTERS[i]}`, `head ${LETTERS[i]}`, 14)));
  if (!hidden) arrows.forEach((arrow, i) => {
    const tip = found.changed[i];
    if (Math.hypot(...tip.map((value, axis) => value - arrow[axis])) < 1e-9) return;
    parts.push(line(arrow, tip, "removed"), ...withHead(tip, `changed ${LETTERS[i]}`, `head ${LETTERS[i]}`, 10));
    const [x, y] = place(tip);
    const length = Math.hypot(x, y);
    if (length > 20) parts.push(make("text", { x: x * (1 + 14 / length), y: y * (1 + 14 / length), class: "small" }, `${LETTERS[i]}′`));
  });
  if (flat) parts.push(...arcs(arrows, found.cosines));
  group.replaceChildren(...parts);
}

function arcs(arrows, cosines) {
  const parts = [];
  let radius = 34;
  for (let i = 0; i < arrows.length; i++) for (let j = i + 1; j < arrows.length; j++) {
    if (!Number.isFinite(cosines[i][j])) continue;
    const start = angleOf(arrows[i]);
    const turn = Math.atan2(Math.sin(angleOf(arrows[j]) - start), Math.cos(angleOf(arrows[j]) - start));
    const at = (angle, distance) => [distance * Math.cos(angle), -distance * Math.sin(angle)];
    const kind = cosines[i][j] < -1e-9 ? "conflict" : "agreement";
    const [from, to] = [at(start, radius), at(start + turn, radius)];
    parts.push(make("path", { d: `M${from.join(" ")}A${radius} ${radius} 0 0 ${turn > 0 ? 0 : 1} ${to.join(" ")}`, class: `arc ${kind}` }));
    if (arrows.length === 2) {
      const [x, y] = at(start + turn / 2 + Math.PI, 26); // the updates lie on the near side
      parts.push(make("text", { x, y, class: `small ${kind}` }, signed(cosines[i][j])));
    }
    radius += 13;
  }
  return parts;
}
