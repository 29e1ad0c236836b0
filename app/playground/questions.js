// Predict, try, reveal. Each question sets up a situation; the right answer is read from what the rules make of it.

const SITUATIONS = { // length and angle in degrees of each arrow
  conflict: [[1, 0], [0.8, 130]],
  agreement: [[1, 0], [0.8, 40]],
  "right angle": [[1, 0], [0.8, 90]],
  opposite: [[1, 0], [1, 180]],
  "loud and quiet": [[1.2, 0], [0.25, 140]],
  "three ways": [[1, 0], [1, 110], [1, 220]],
};

const signed = (value) => (Math.abs(value) < 0.005 ? "0.00" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`);
const somethingChanges = (found) => found.projected.flat().some(Boolean);
const remains = (found) => found.after.cosines.some((row, i) => row.some((value, j) => i < j && value < -1e-9));

const QUESTIONS = [
  {
    situation: "conflict", rule: "pcgrad",
    ask: () => "These two gradients stand 130° apart. Which of them will pcgrad change?",
    answers: () => ["both", "only A, which comes first", "neither"],
    right: ({ projected }) => (projected[0][1] && projected[1][0] ? 0 : projected[0][1] ? 1 : 2),
    because: ({ cosines }) => `The cosine is ${signed(cosines[0][1])}, below 0: a conflict. Each loses what points against the other's original, so both change.`,
  },
  {
    situation: "conflict", rule: "pcgrad",
    ask: () => "A′ is what is left of A. What is the cosine of A′ and the original B?",
    answers: ({ cosines }) => [`${signed(cosines[0][1])}, as before`, "0", signed(-cosines[0][1])],
    right: ({ coefficients, gram }) => (Math.abs(dot(coefficients[0], gram[1])) < 1e-9 ? 1 : 0),
    because: () => "0. A′ lies on B's normal line (dotted): a step along it leaves B's loss as it is, to first order.",
  },
  {
    situation: "conflict", rule: "pcgrad",
    ask: () => "And the cosine of A′ and B′, when both are projected?",
    answers: ({ cosines }) => [signed(cosines[0][1]), "0", signed(-cosines[0][1])],
    right: ({ cosines, after: { cosines: now } }) => [cosines[0][1], 0, -cosines[0][1]].findIndex((value) => Math.abs(value - now[0][1]) < 1e-9),
    because: ({ after: { cosines } }) => `${signed(cosines[0][1])}: two conflicting gradients agree by exactly as much as they conflicted before. So "after projection the cosine is positive" says nothing about the data.`,
  },
  {
    situation: "conflict", rule: "pcgrad",
    ask: () => "Try: move an arrow until pcgrad changes nothing.",
    reached: (found) => !somethingChanges(found),
    because: () => "Within 90° nothing is projected, and the two updates are one. Projection does nothing for tasks that merely differ.",
  },
  {
    situation: "loud and quiet", rule: "pcgrad",
    ask: () => "A is about five times as long as B. What does the plain sum do to B's loss?",
    answers: () => ["it falls", "it rises", "it stays"],
    right: ({ plain }) => (plain.falls[1] > 1e-9 ? 0 : plain.falls[1] < -1e-9 ? 1 : 2),
    because: ({ plain, ruled }) => `It rises by ${(-plain.falls[1]).toFixed(2)} times the step: the sum points where A does. With two tasks pcgrad never raises a loss, to first order: B's falls by ${ruled.falls[1].toFixed(2)}.`,
  },
  {
    situation: "conflict", rule: "pcgrad-inplace",
    ask: () => "In place, A goes first; then B meets what is left of A, not the original. Does B change?",
    answers: () => ["yes", "no"],
    right: ({ projected }) => (projected[1][0] ? 0 : 1),
    because: () => "No: A has already left B's way, so B meets no conflict. Who goes first gives way: change the order and see.",
  },
  {
    situation: "three ways", rule: "pcgrad",
    ask: () => "Three gradients that all conflict, and pcgrad. Is every conflict gone afterwards?",
    answers: () => ["yes", "no, some remain"],
    right: (found) => (remains(found) ? 1 : 0),
    because: () => "Some remain: leaving the way of one task can lead into that of another, and here A's loss even rises. What remains is in the record of every run, as the cosine after projection.",
  },
  {
    situation: "opposite", rule: "pcgrad",
    ask: () => "Exactly opposite gradients: what is left of them?",
    answers: () => ["half of each", "nothing", "all of the first"],
    right: ({ after: { norms } }) => (Math.max(...norms) < 1e-9 ? 1 : norms[0] > 0.9 ? 2 : 0),
    because: () => "Nothing. No direction serves both, so projection stands still, as the plain sum does. It can step aside; it cannot make opposite demands agree.",
  },
];
