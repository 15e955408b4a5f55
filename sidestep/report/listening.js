"use strict";
/* Blind pairs. What is drawn (the order of pairs, which take is A, which X is) and what is chosen are one
   object, kept in the browser under the digest of the samples: other samples begin anew. */
const { key, takes, pairs } = JSON.parse(document.getElementById("data").textContent);
const STORE = `side-step-listen-${key}`;
const find = (selector) => document.querySelector(selector);
const button = (name) => find(`[data-key="${name}"]`);

const draw = (below) => crypto.getRandomValues(new Uint32Array(1))[0] % below;

function drawn() {
  const order = pairs.map((_, number) => number);
  for (let last = order.length - 1; last > 0; last--) {
    const other = draw(last + 1);
    [order[last], order[other]] = [order[other], order[last]];
  }
  return { at: 0, trials: order.map((pair) => ({ pair, swapped: draw(2), x: draw(2), better: null, found: null })) };
}

function kept() {
  try {
    const state = JSON.parse(localStorage.getItem(STORE));
    return state && state.trials.length === pairs.length ? state : null;
  } catch {
    return null;
  }
}

function keep() {
  try {
    localStorage.setItem(STORE, JSON.stringify(state));
  } catch {
    find("#kept").textContent = "This browser keeps nothing of this page: save a file before you close it.";
  }
}

let state = kept() || drawn();
let players = {}; // a, b: audio elements of this pair
let playing = null; // the letter that is heard, or was heard last

const trial = () => state.trials[state.at];
const isDone = (one) => one.better !== null && one.found !== null;

/* The take behind a letter. */
function takeOf(letter, one = trial()) {
  const side = letter === "x" ? one.x : letter === "b" ? 1 : 0;
  return pairs[one.pair][1 + (side ^ one.swapped)];
}

const player = (letter) => players[letter === "x" ? "ab"[trial().x] : letter];

function open(at) {
  for (const audio of Object.values(players)) {
    audio.pause();
    audio.removeAttribute("src");
  }
  state.at = Math.min(Math.max(at, 0), state.trials.length - 1);
  players = {};
  playing = null;
  for (const letter of "ab") {
    const take = takes[takeOf(letter)];
    const audio = new Audio(take.file);
    audio.preload = "auto";
    audio.volume = take.gain;
    if (Math.abs(audio.volume - take.gain) > 0.01) {
      find("#kept").textContent = "This browser does not let a page set the level: sounds may differ in loudness.";
    }
    audio.onended = show;
    audio.onerror = () => {
      find("#told").textContent = `${take.file} can't be played: keep the page and its sounds in one folder.`;
    };
    players[letter] = audio;
  }
  keep();
  show();
}

async function play(letter) {
  if (playing === letter && !player(letter).paused) return pause();
  const before = playing && player(playing);
  const next = player(letter);
  if (before && before !== next) {
    before.pause();
    next.currentTime = before.ended ? 0 : Math.min(before.currentTime, next.duration || before.currentTime);
  }
  playing = letter;
  const started = next.play();
  show();
  try {
    await started;
  } catch (error) {
    if (error.name !== "AbortError") find("#told").textContent = `It can't be played: ${error.message}`;
  }
  show();
}

function pause() {
  if (!playing) return play("a");
  const audio = player(playing);
  if (audio.paused) return play(playing);
  audio.pause();
  show();
}

function seek(seconds) {
  if (!playing) return;
  const audio = player(playing);
  audio.currentTime = Math.min(Math.max(audio.currentTime + seconds, 0), audio.duration || 0);
  show();
}

function choose(what, side) {
  const one = trial();
  if (isDone(one)) return; // its names are known by now
  one[what] = side;
  keep();
  show();
}

/* How often at least `found` of `all` are guessed. */
function chance(found, all) {
  let ways = 1; // of choosing n of all
  let sum = 0;
  for (let n = 0; n <= all; n++) {
    if (n >= found) sum += ways;
    ways = (ways * (all - n)) / (n + 1);
  }
  return sum / 2 ** all;
}

function results() {
  const rows = new Map();
  for (const one of state.trials.filter(isDone)) {
    const [, base, other] = pairs[one.pair];
    const name = `${takes[other].name}, against ${takes[base].name}`;
    const row = rows.get(name) || { better: 0, worse: 0, same: 0, found: 0, all: 0 };
    if (one.better === 2) row.same += 1;
    else if ((one.better ^ one.swapped) === 1) row.better += 1;
    else row.worse += 1;
    row.found += one.found === one.x ? 1 : 0;
    row.all += 1;
    rows.set(name, row);
  }
  return rows;
}

function show() {
  const one = trial();
  const done = isDone(one);
  find("#pair").textContent = `Pair ${state.at + 1} of ${state.trials.length}`;
  document.querySelectorAll(".prompt").forEach((prompt, number) => {
    prompt.hidden = number !== pairs[one.pair][0];
  });
  for (const letter of "abx") {
    const isHeard = playing === letter && !player(letter).paused;
    button(letter).setAttribute("aria-pressed", isHeard);
  }
  const press = (name, is) => {
    button(name).setAttribute("aria-pressed", is);
    button(name).disabled = done;
  };
  press("1", one.better === 0);
  press("2", one.better === 1);
  press("0", one.better === 2);
  press("3", one.found === 0);
  press("4", one.found === 1);
  button("p").disabled = state.at === 0;
  button("n").disabled = state.at === state.trials.length - 1;
  find("#told").textContent = done
    ? `A: ${takes[takeOf("a")].name}. B: ${takes[takeOf("b")].name}. X was ${"AB"[one.x]}: ${
        one.found === one.x ? "found" : "not found"
      }.`
    : "";
  const rows = [...results()].map(([name, row]) => {
    const line = document.createElement("tr");
    const cells = [name, row.better, row.worse, row.same, `${row.found} of ${row.all}`];
    for (const text of [...cells, `${(100 * chance(row.found, row.all)).toFixed(0)} %`]) {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (line.childElementCount) cell.className = "number";
      line.append(cell);
    }
    return line;
  });
  find("#results tbody").replaceChildren(...rows);
  find("#results").hidden = rows.length === 0;
}

function save() {
  const answers = state.trials.filter(isDone).map((one) => ({
    prompt: pairs[one.pair][0],
    a: takes[takeOf("a", one)].file,
    b: takes[takeOf("b", one)].file,
    x: "ab"[one.x],
    better: ["a", "b", "none"][one.better],
    x_said: "ab"[one.found],
  }));
  const text = JSON.stringify({ format: 1, samples: key, answers }, null, 2);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${text}\n`], { type: "application/json" }));
  link.download = "listening.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function again() {
  if (!confirm("Forget what you have chosen, and draw all pairs anew?")) return;
  state = drawn();
  open(0);
}

const ACTIONS = {
  a: () => play("a"),
  b: () => play("b"),
  x: () => play("x"),
  " ": pause,
  arrowleft: () => seek(-5),
  arrowright: () => seek(5),
  1: () => choose("better", 0),
  2: () => choose("better", 1),
  0: () => choose("better", 2),
  3: () => choose("found", 0),
  4: () => choose("found", 1),
  p: () => open(state.at - 1),
  n: () => open(state.at + 1),
  e: () => save(),
  r: () => again(),
};

if (pairs.length) {
  find("#blind").hidden = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("audio")) return;
    const name = event.key.toLowerCase();
    const isPressed = event.target.closest("button, summary") && name === " "; // Space presses what has the focus
    if (!(name in ACTIONS) || isPressed) return;
    event.preventDefault();
    ACTIONS[name]();
  });
  document.querySelectorAll("[data-key]").forEach((one) => {
    one.addEventListener("click", () => ACTIONS[one.dataset.key]());
  });
  setInterval(() => {
    const audio = playing && player(playing);
    find("#place").value = audio && audio.duration ? audio.currentTime / audio.duration : 0;
  }, 100);
  open(state.at);
}
