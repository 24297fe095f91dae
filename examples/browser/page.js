import * as ort from "./ort/ort.wasm.bundle.min.mjs";
import { toDigit } from "./digit.js";
import { Pad } from "./pad.js";

const RUNS = 50;
// One Identity node: starts the runtime, so that no model's load time has that in it.
const SMALLEST =
  "CAg6NwoQCgFhEgFiIghJZGVudGl0eRIBZ1oPCgFhEgoKCAgBEgQKAggBYg8KAWISCgoICAESBAoCCAFCBAoAEA0=";

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = 1;

const find = (id) => document.getElementById(id);
const models = {};

function show(name, cell, text) {
  find(name).querySelector(`[data-cell=${cell}]`).textContent = text;
}

/** Run one model on one digit, and give its outputs' numbers. */
async function run(model, digit) {
  const input = new ort.Tensor("float32", digit, [1, digit.length]);
  const outputs = await model.session.run({ [model.session.inputNames[0]]: input });
  return outputs[model.session.outputNames[0]].data;
}

async function load(name) {
  const answer = await fetch(`models/${name}.onnx`, { cache: "no-store" });
  if (!answer.ok) throw new Error(`models/${name}.onnx: ${answer.status} ${answer.statusText}`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  show(name, "bytes", `${(bytes.length / 1000).toFixed(1)} kB`);
  const start = performance.now();
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  show(name, "load", `${(performance.now() - start).toFixed(0)} ms`);
  models[name] = { session, bytes: bytes.length };
}

async function startRuntime() {
  const bytes = Uint8Array.from(atob(SMALLEST), (letter) => letter.charCodeAt(0));
  const start = performance.now();
  await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  return performance.now() - start;
}

/** Time both in turn, so that what else the machine does hits both. */
async function time() {
  const blank = new Float32Array(784);
  const times = { packed: [], plain: [] };
  for (let round = 0; round < RUNS; round++) {
    for (const name of Object.keys(times)) {
      const start = performance.now();
      await run(models[name], blank);
      times[name].push(performance.now() - start);
    }
  }
  for (const [name, list] of Object.entries(times)) {
    list.sort((a, b) => a - b);
    show(name, "run", `${list[RUNS / 2].toFixed(2)} ms`);
  }
}

function softmax(scores) {
  const most = Math.max(...scores);
  const parts = Array.from(scores, (score) => Math.exp(score - most));
  const sum = parts.reduce((a, b) => a + b);
  return parts.map((part) => part / sum);
}

/** What the model gives, as shares: some models end in a softmax, some do not. */
function shares(scores) {
  const sum = scores.reduce((a, b) => a + b);
  const done = Math.abs(sum - 1) < 1e-3 && scores.every((score) => score >= 0);
  return done ? Array.from(scores) : softmax(scores);
}

const bars = Array.from({ length: 10 }, (_, digit) => {
  const row = document.createElement("li");
  row.innerHTML = `<span>${digit}</span><span class="bar"><i></i></span><span></span>`;
  find("bars").append(row);
  return row;
});

function answer(probabilities) {
  const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : null;
  find("digit").textContent = best ?? "–";
  find("digit").dataset.state = best === null ? "empty" : "answered";
  find("said").textContent =
    best === null
      ? "Draw in the square"
      : `${Math.round(probabilities[best] * 100)} % sure`;
  bars.forEach((row, digit) => {
    const percent = probabilities ? Math.round(probabilities[digit] * 100) : 0;
    row.querySelector("i").style.width = `${percent}%`;
    row.lastElementChild.textContent = probabilities ? `${percent} %` : "";
  });
}

let busy = false;
let again = false;

/** Classify what is drawn now; one run at a time, the last drawing always gets one. */
async function classify() {
  if (!models.packed) return;
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  do {
    again = false;
    const digit = toDigit(pad.pixels(), pad.canvas.width);
    answer(digit && shares(await run(models.packed, digit)));
  } while (again);
  busy = false;
}

const pad = new Pad(find("pad"), classify);
find("clear").addEventListener("click", () => pad.clear());

try {
  const started = await startRuntime();
  await load("packed");
  await classify();
  await load("plain");
  await time();
  const rate = (models.plain.bytes / models.packed.bytes).toFixed(1);
  find("status").textContent =
    `The packed file is ${rate} times smaller. ` +
    `The runtime itself started in ${started.toFixed(0)} ms.`;
  find("status").dataset.state = "ready";
} catch (error) {
  find("status").textContent = `Could not load the models: ${error.message}`;
  find("status").className = "bad";
  find("status").dataset.state = "failed";
}
