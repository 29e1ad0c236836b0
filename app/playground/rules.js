// The rules of analysis/conflict/rules.py for one Gram matrix of a few tasks; a browser test holds the two together.
// Matrices are arrays of rows; orders are lists of permutations, over which the mean is made.

const RESIDUE = 1e-6; // share of a squared length below which what is left of a gradient is rounding error

const square = (count, of) => Array.from({ length: count }, (_, i) => Array.from({ length: count }, (_, j) => of(i, j)));
const dot = (one, other) => one.reduce((sum, value, place) => sum + value * other[place], 0);
const clip = (value) => Math.min(1, Math.max(-1, value));

function gramOf(arrows) {
  return square(arrows.length, (i, j) => dot(arrows[i], arrows[j]));
}

function permutations(items) {
  if (items.length < 2) return [items];
  return items.flatMap((first, place) =>
    permutations(items.toSpliced(place, 1)).map((rest) => [first, ...rest]));
}

// Coefficients C with g'_i = sum_j C_ij g_j, and whether i was changed against j in any of the orders.
function project(gram, rule, orders, goal = 0) {
  const tasks = gram.length;
  const length = gram.map((row, i) => (row[i] >= 2.2250738585072014e-308 ? Math.sqrt(row[i]) : NaN));
  const cosine = square(tasks, (i, j) => {
    const found = i === j ? gram[i][i] / length[i] / length[i] : clip(gram[i][j] / length[i] / length[j]);
    return Number.isFinite(found) ? (i === j ? 1 : found) : 0;
  });
  const unit = square(tasks, () => 0);
  const projected = square(tasks, () => false);
  for (const order of orders) {
    const permuted = square(tasks, (i, j) => cosine[order[i]][order[j]]);
    const [made, changed] = ONE_ORDER[rule](permuted, order.map((i) => Number.isFinite(length[i])), goal);
    order.forEach((i, a) => order.forEach((j, b) => {
      unit[i][j] += made[a][b] / orders.length;
      projected[i][j] ||= changed[a][b];
    }));
  }
  const coefficients = square(tasks, (i, j) => (i === j ? unit[i][j] : (unit[i][j] * length[i]) / length[j] || 0));
  return { coefficients, projected };
}

// Norms and cosines of the gradients C g; a cosine is NaN where only rounding is left.
function after(gram, coefficients) {
  const tasks = gram.length;
  const product = (one, other) => dot(one, gram.map((row) => dot(row, other)));
  const changed = square(tasks, (i, j) => product(coefficients[i], coefficients[j]));
  const norms = changed.map((row, i) => Math.sqrt(Math.max(row[i], 0)));
  const directed = norms.map((norm, i) =>
    norm ** 2 > RESIDUE * coefficients[i].reduce((sum, c, j) => sum + c * c * gram[j][j], 0) ? norm : NaN);
  return { norms, cosines: square(tasks, (i, j) => clip(changed[i][j] / directed[i] / directed[j])) };
}

// The weight of each gradient in the update, and <g_i, update>: by how much each loss falls, to first order.
function effects(gram, coefficients) {
  const weights = gram.map((_, j) => coefficients.reduce((sum, row) => sum + row[j], 0));
  return { weights, falls: gram.map((row) => dot(row, weights)) };
}

const tolerance = (tasks) => 16 * tasks * Number.EPSILON;
// <g_i current, g_j original>, when only the tasks before j were added to g_i.
const productWith = (cosine, added, i, j) => cosine[i][j] + dot(added.slice(0, j), cosine[j].slice(0, j));

const ONE_ORDER = {
  sum: (cosine) => [square(cosine.length, (i, j) => Number(i === j)), square(cosine.length, () => false)],

  pcgrad: (cosine) => {
    const tasks = cosine.length;
    const added = square(tasks, () => 0);
    for (let i = 0; i < tasks; i++) for (let j = 0; j < tasks; j++) {
      const found = productWith(cosine, added[i], i, j);
      if (i !== j && found < -tolerance(tasks)) added[i][j] = -found;
    }
    return [square(tasks, (i, j) => added[i][j] + (i === j)), square(tasks, (i, j) => added[i][j] !== 0)];
  },

  "pcgrad-inplace": (cosine) => {
    const tasks = cosine.length;
    const current = square(tasks, (i, j) => Number(i === j));
    const projected = square(tasks, () => false);
    for (let i = 0; i < tasks; i++) for (let j = 0; j < tasks; j++) {
      if (i === j) continue;
      const towards = cosine.map((row) => dot(row, current[j]));
      const product = dot(current[i], towards);
      const size = dot(current[j], towards);
      // Of a gradient that was all but projected away, no direction is left.
      if (!(product < -tolerance(tasks) && size > RESIDUE)) continue;
      current[i] = current[i].map((value, k) => value - (product / size) * current[j][k]);
      projected[i][j] = true;
    }
    return [current, projected];
  },

  gradvac: (cosine, there, goal) => {
    const tasks = cosine.length;
    const least = tolerance(tasks);
    const added = square(tasks, () => 0);
    for (let i = 0; i < tasks; i++) {
      let size = 1;
      for (let j = 0; j < tasks; j++) {
        if (i === j || !there[i] || !there[j] || size <= least) continue;
        const product = productWith(cosine, added[i], i, j);
        const length = Math.sqrt(Math.max(size, least));
        const now = clip(product / length);
        if (now >= goal - least) continue;
        const tangent = goal * Math.sqrt((1 - now ** 2) / Math.max(1 - goal ** 2, least));
        const step = length * (tangent - now);
        added[i][j] = step;
        size += step * (2 * product + step);
      }
    }
    return [square(tasks, (i, j) => added[i][j] + (i === j)), square(tasks, (i, j) => added[i][j] !== 0)];
  },
};

// All that is shown of some arrows under a rule.
function measure(arrows, rule, orders, goal) {
  const gram = gramOf(arrows);
  const identity = square(arrows.length, (i, j) => Number(i === j));
  const { coefficients, projected } = project(gram, rule, orders, goal);
  const changed = coefficients.map((row) => arrows[0].map((_, axis) => dot(row, arrows.map((arrow) => arrow[axis]))));
  const total = (rows) => rows[0].map((_, axis) => rows.reduce((sum, row) => sum + row[axis], 0));
  return {
    gram, coefficients, projected, changed,
    cosines: after(gram, identity).cosines,
    after: after(gram, coefficients),
    plain: { ...effects(gram, identity), update: total(arrows) },
    ruled: { ...effects(gram, coefficients), update: total(changed) },
  };
}
