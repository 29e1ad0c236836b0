// The state of the playground, its controls and its words. Names come from outside: they are only ever text.

const views = new WeakMap();

export default function ({ data, parentElement }) {
  if (!views.has(parentElement)) views.set(parentElement, open(parentElement));
  views.get(parentElement)(data);
}

const LONGEST = 1.25;

function open(root) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const state = {
    arrows: [], names: [], rule: "pcgrad", order: "AB", goal: 0.3, turn: 0, zoom: 1,
    question: null, answer: null, reached: false, firstTries: 0,
  };
  let received = "";
  let run = { arrows: [], names: [], origin: "" };

  const orders = () => {
    const places = state.arrows.map((_, place) => place);
    const all = permutations(places);
    return state.order === "mean" ? all : [all.find((one) => one.map((place) => LETTERS[place]).join("") === state.order)];
  };
  const found = () => measure(state.arrows, state.rule, orders(), state.goal);
  const name = (i) => (state.names[i] ? `${LETTERS[i]} · ${state.names[i]}` : LETTERS[i]);
  const asked = () => (state.question === null ? null : QUESTIONS[state.question]);
  const hidden = () => Boolean(asked()?.answers) && state.answer === null;

  function show(arrows, names = []) {
    const before = state.arrows.length;
    Object.assign(state, { arrows: arrows.map((arrow) => [...arrow]), names, turn: 0 });
    if (before !== arrows.length) listOrders();
    fit();
  }

  function setUp(situation) {
    if (situation === "run") show(run.arrows, run.names);
    else show(SITUATIONS[situation].map(([length, degrees]) => {
      const angle = (degrees * Math.PI) / 180;
      return [length * Math.cos(angle), length * Math.sin(angle), 0];
    }));
    part("origin").textContent = situation === "run" ? run.origin : "";
  }

  function fit() {
    const now = found();
    state.zoom = fittingZoom([...state.arrows, ...now.changed, now.plain.update, now.ruled.update]);
  }

  function listOrders() {
    const choices = permutations(state.arrows.map((_, place) => LETTERS[place]));
    const options = choices.map((one) => new Option(one.join(" → "), one.join("")));
    part("order").replaceChildren(...options, new Option("mean over all orders", "mean"));
    state.order = choices[0].join("");
  }

  // --- what is shown ---

  function render(aloud = true) {
    const now = found();
    draw(part("drawing"), state.arrows, now, state.zoom, hidden());
    placeHandles();
    for (const button of part("counts").children) button.setAttribute("aria-pressed", Number(button.dataset.count) === state.arrows.length);
    part("rule").value = state.rule;
    part("order").value = state.order;
    part("order").disabled = state.rule === "sum";
    part("goal-field").hidden = state.rule !== "gradvac";
    part("goal-shown").textContent = signed(state.goal);
    part("turn-field").hidden = planar(state.arrows) && state.turn === 0;
    part("turn-shown").textContent = `${state.turn}°`;
    part("again").hidden = run.arrows.length === 0;
    fillPairs(now);
    fillEffects(now);
    const sum = now.ruled.weights.map((weight, i) => `${weight.toFixed(2)} ${LETTERS[i]}`).join(" + ");
    part("weights").textContent = hidden() ? "" : `The update is ${sum}; the plain sum has 1 of each.`;
    if (asked()?.reached?.(now)) state.reached = true;
    fillQuestion(now);
    if (aloud) part("said").textContent = words(now);
  }

  function placeHandles() {
    const group = part("handles");
    while (group.children.length < state.arrows.length) group.append(newHandle(group.children.length));
    while (group.children.length > state.arrows.length) group.lastChild.remove();
    state.arrows.forEach((arrow, i) => {
      const [x, y] = [arrow[0] * UNIT * state.zoom, -arrow[1] * UNIT * state.zoom];
      const length = Math.hypot(x, y);
      const away = length > 1e-6 ? [x / length, y / length] : [0, -1];
      const handle = group.children[i];
      handle.setAttribute("transform", `translate(${x + 13 * away[0]} ${y + 13 * away[1]})`);
      const degrees = Math.round((angleOf(arrow) * 180) / Math.PI);
      handle.setAttribute("aria-label", `Gradient ${name(i)}`);
      handle.setAttribute("aria-valuenow", degrees);
      handle.setAttribute("aria-valuetext", `length ${Math.hypot(...arrow).toFixed(2)}, angle ${degrees} degrees`);
    });
  }

  function newHandle(i) {
    const handle = make("g", { class: `handle ${LETTERS[i]}`, tabindex: 0, role: "slider", "aria-valuemin": -180, "aria-valuemax": 180 });
    handle.append(make("circle", { r: 22, class: "reach" }), make("circle", { r: 11 }), make("text", {}, LETTERS[i]));
    let offset = null;
    handle.addEventListener("pointerdown", (event) => {
      const [x, y] = pointed(event);
      offset = [state.arrows[i][0] - x, state.arrows[i][1] - y];
      handle.setPointerCapture(event.pointerId);
      handle.classList.add("dragged");
    });
    // Else the browser takes the finger for scrolling: it heeds `touch-action` on all of a picture, not on a part.
    handle.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
    handle.addEventListener("pointermove", (event) => {
      if (!offset) return;
      const [x, y] = pointed(event);
      move(i, x + offset[0], y + offset[1]);
      render(false);
    });
    const release = () => {
      if (!offset) return;
      offset = null;
      handle.classList.remove("dragged");
      fit();
      render();
    };
    handle.addEventListener("pointerup", release);
    handle.addEventListener("pointercancel", release);
    handle.addEventListener("keydown", (event) => {
      const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!direction) return;
      event.preventDefault();
      const step = event.shiftKey ? 0.01 : 0.05;
      move(i, state.arrows[i][0] + step * direction[0], state.arrows[i][1] + step * direction[1]);
      fit();
      render();
    });
    return handle;
  }

  function pointed(event) {
    const svg = part("drawing").ownerSVGElement;
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [x / UNIT / state.zoom, -y / UNIT / state.zoom];
  }

  function move(i, x, y) {
    const length = Math.hypot(x, y);
    const kept = length < 0.03 ? 0 : Math.min(1, LONGEST / length);
    state.arrows[i] = [x * kept, y * kept, state.arrows[i][2]];
  }

  const verdictOn = (cosine) => {
    if (!Number.isFinite(cosine)) return ["", "—", "no gradient"];
    if (Math.abs(cosine) < 1e-9) return ["", signed(cosine), "right angle"];
    return cosine < 0 ? ["conflict", signed(cosine), "conflict"] : ["agreement", signed(cosine), "agreement"];
  };

  function fillPairs(now) {
    const rows = [];
    state.arrows.forEach((_, i) => state.arrows.slice(i + 1).forEach((__, k) => {
      const j = i + 1 + k;
      const cosine = now.cosines[i][j];
      const degrees = Number.isFinite(cosine) ? `${Math.round((Math.acos(cosine) * 180) / Math.PI)}°` : "—";
      rows.push(row(`${LETTERS[i]} and ${LETTERS[j]}`, cell(degrees), judged(cosine), hidden() ? cell("?") : judged(now.after.cosines[i][j])));
    }));
    part("pairs").tBodies[0].replaceChildren(...rows);
  }

  function fillEffects(now) {
    const largest = Math.max(...now.plain.falls.map(Math.abs), ...now.ruled.falls.map(Math.abs), 1e-9);
    const effect = (fall) => {
      if (hidden()) return cell("?");
      const kind = Math.abs(fall) < 1e-9 ? "" : fall > 0 ? "falls" : "rises";
      const made = cell(kind ? `${kind} ${Math.abs(fall).toFixed(2)}` : "stays");
      made.className = kind;
      const bar = made.appendChild(document.createElement("div"));
      bar.className = "bar";
      const filled = bar.appendChild(document.createElement("i"));
      filled.className = kind;
      filled.style.width = `${(50 * Math.abs(fall)) / largest}%`;
      return made;
    };
    part("effects").tBodies[0].replaceChildren(...state.arrows.map((_, i) => {
      const made = row(name(i), effect(now.plain.falls[i]), effect(now.ruled.falls[i]));
      const swatch = document.createElement("span");
      swatch.className = `swatch ${LETTERS[i]}`;
      made.firstChild.prepend(swatch);
      return made;
    }));
  }

  function cell(text) {
    const made = document.createElement("td");
    made.textContent = text;
    return made;
  }

  function judged(cosine) {
    const [kind, number, word] = verdictOn(cosine);
    const made = cell(number);
    made.className = kind;
    made.appendChild(document.createElement("small")).textContent = word;
    return made;
  }

  function row(heading, ...cells) {
    const made = document.createElement("tr");
    const head = made.appendChild(document.createElement("th"));
    head.scope = "row";
    head.textContent = heading;
    made.append(...cells);
    return made;
  }

  function words(now) {
    const said = [];
    state.arrows.forEach((_, i) => state.arrows.slice(i + 1).forEach((__, k) => {
      const j = i + 1 + k;
      const [, before, kind] = verdictOn(now.cosines[i][j]);
      const then = hidden() ? "" : `, after the rule ${verdictOn(now.after.cosines[i][j])[1]}`;
      said.push(`${LETTERS[i]} and ${LETTERS[j]}: cosine ${before}, ${kind}${then}.`);
    }));
    if (!hidden()) now.ruled.falls.forEach((fall, i) => {
      const kind = Math.abs(fall) < 1e-9 ? "stays" : fall > 0 ? "falls" : "rises";
      said.push(`With the rule the loss of ${LETTERS[i]} ${kind}.`);
    });
    return said.join(" ");
  }

  // --- predict, try, reveal ---

  let filled = "";
  function fillQuestion(now) {
    const question = asked();
    const key = JSON.stringify([state.question, state.answer, state.reached]);
    if (key === filled) return; // whoever is about to press a button keeps it
    filled = key;
    const over = state.question !== null && !question;
    part("question-step").textContent = question ? `Predict, try, reveal · ${state.question + 1} of ${QUESTIONS.length}` : "Predict, try, reveal";
    part("question").textContent = question ? question.ask(now)
      : over ? `Done: ${state.firstTries} of ${QUESTIONS.filter(({ answers }) => answers).length} predicted right.`
      : `${QUESTIONS.length} short questions: answer before you see. The right answer is computed from the arrows.`;
    const right = question?.right?.(now);
    part("answers").replaceChildren(...(question?.answers?.(now) ?? []).map((text, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.disabled = state.answer !== null;
      if (state.answer !== null) button.className = place === right ? "right" : place === state.answer ? "wrong" : "";
      button.addEventListener("click", () => {
        if (place === right) state.firstTries += 1;
        state.answer = place;
        fit();
        render();
        part("next").focus();
      });
      return button;
    }));
    const revealed = question && (state.answer !== null || state.reached);
    const opening = !question?.answers ? "There. " : state.answer === right ? "Right. " : "Not so. ";
    part("verdict").textContent = revealed ? opening + question.because(now) : "";
    part("next").hidden = Boolean(question) && !revealed;
    part("next").textContent = question ? "Next" : over ? "Once more" : "Start";
  }

  function ask(place) {
    Object.assign(state, { question: place, answer: null, reached: false });
    if (place === 0) state.firstTries = 0;
    const question = asked();
    if (question) {
      setUp(question.situation);
      listOrders();
      state.rule = question.rule;
      fit();
    }
    render();
    part("answers").firstChild?.focus();
  }

  const leaveQuestions = () => Object.assign(state, { question: null, answer: null, reached: false });

  // --- controls ---

  part("next").addEventListener("click", () => ask(asked() ? state.question + 1 : 0));
  for (const button of root.querySelectorAll("[data-situation]")) button.addEventListener("click", () => {
    leaveQuestions();
    setUp(button.dataset.situation);
    render();
  });
  for (const button of part("counts").children) button.addEventListener("click", () => {
    const count = Number(button.dataset.count);
    if (count === state.arrows.length) return;
    leaveQuestions();
    if (count === 2) show(state.arrows.slice(0, 2), state.names.slice(0, 2));
    else show([...state.arrows, run.arrows.length === 3 && state.names.length ? run.arrows[2] : [-0.4, -0.7, 0]], run.arrows.length === 3 && state.names.length ? run.names : []);
    render();
  });
  const control = (which, apply) => part(which).addEventListener("input", (event) => {
    apply(event.target.value);
    fit();
    render();
  });
  control("rule", (value) => { state.rule = value; });
  control("order", (value) => { state.order = value; });
  control("goal", (value) => { state.goal = Number(value); });
  control("turn", (value) => {
    const angle = ((Number(value) - state.turn) * Math.PI) / 180;
    state.turn = Number(value);
    state.arrows = state.arrows.map(([x, y, z]) => [x * Math.cos(angle) + z * Math.sin(angle), y, z * Math.cos(angle) - x * Math.sin(angle)]);
  });

  setUp("conflict");

  return function receive(data) {
    const now = JSON.stringify(data);
    if (now !== received) {
      received = now;
      const longest = Math.max(...data.arrows.map((arrow) => Math.hypot(...arrow)), Number.MIN_VALUE);
      run = { ...data, arrows: data.arrows.map((arrow) => arrow.map((value) => value / longest)) };
      if (run.arrows.length) {
        leaveQuestions();
        setUp("run");
      }
    }
    render();
  };
}
