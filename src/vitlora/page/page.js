// What a person sees and does. All text goes in as text, never as HTML: class names come from outside.
"use strict";

const facts = JSON.parse(document.getElementById("facts").textContent);
const SHOWN = 5; // classes of each picture
const LEAST = 0.0005; // of a class that is shown beside the likeliest: less is written as 0.0%
const NAMED = 12; // classes at the top of the page
const find = (selector, root = document) => root.querySelector(selector);
const waiting = []; // cards that are not done
let ask = null, isBusy = false, hasFailed = false;

/** Return an element with a class and content: texts and elements. */
function make(tag, name, ...content) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...content.filter((each) => each !== null));
  return element;
}

const named = (label) => Object.assign(make("span", "class", facts.classes[label]), { dir: "auto" });
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const counted = (count, noun, plural) => `${count.toLocaleString("en")} ${count === 1 ? noun : plural}`;
const joined = (names) => names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;

/** Return the texts that hold one packed file, and take them out of the page, which would keep them. */
function taken(name) {
  const found = [...document.querySelectorAll(`script[data-of="${name}"]`)];
  return found.map((element) => {
    element.remove();
    return element.textContent;
  });
}

/** Load the model and return what classifies: a worker's, or this page's own where a browser starts none. */
async function start(packed) {
  try {
    return await startWorker(packed);
  } catch (error) {
    console.warn(`no worker: ${error.message}`);
    await load(packed);
    return classify;
  }
}

async function startWorker(packed) {
  const code = new Blob([find("#engine").textContent, "\nlisten();"], { type: "text/javascript" });
  const worker = new Worker(URL.createObjectURL(code));
  const answers = new Map();
  let last = 0;
  const send = (what) => new Promise((resolve, reject) => {
    answers.set(++last, { resolve, reject });
    worker.postMessage({ id: last, ...what });
  });
  worker.onmessage = ({ data: { id, answer, error } }) => {
    const { resolve, reject } = answers.get(id);
    answers.delete(id);
    if (error === undefined) resolve(answer);
    else reject(new Error(error));
  };
  worker.onerror = (event) => {
    event.preventDefault?.();
    for (const { reject } of answers.values()) reject(new Error(event.message || "the worker failed"));
    answers.clear();
  };
  await send({ packed });
  return (file) => send({ file });
}

/** Show pictures as cards that wait, newest batch first. */
function add(files) {
  const list = find("#results ol"), first = list.firstChild;
  for (const { file, name, label } of files) {
    const address = URL.createObjectURL(file);
    const image = Object.assign(make("img"), { src: address, alt: "" });
    const box = make("div", "thumb", image), body = make("div", "answer", make("p", "quiet", "waiting …"));
    const remove = Object.assign(make("button", "remove", "×"), { type: "button", title: "Remove" });
    remove.setAttribute("aria-label", `Remove ${name}`);
    const caption = make("p", "file", name);
    caption.dir = "auto";
    const card = make("li", "card", box, make("div", "text", body, caption), remove);
    const job = { file, label, card, box, body, caption, address };
    image.onerror = () => box.classList.add("none");
    remove.onclick = () => drop(job);
    card.drop = () => drop(job);
    waiting.push(job);
    list.insertBefore(card, first);
  }
  update();
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  find("#results").scrollIntoView({ behavior: isCalm ? "auto" : "smooth", block: "nearest" });
  work();
}

function drop(job) {
  const at = waiting.indexOf(job);
  if (at >= 0) waiting.splice(at, 1);
  const next = job.card.nextElementSibling ?? job.card.previousElementSibling;
  job.card.remove();
  URL.revokeObjectURL(job.address);
  (next ? find(".remove", next) : find("#files")).focus({ preventScroll: true });
  update();
}

/** Classify what waits, one after the other. */
async function work() {
  if (!ask || isBusy) return;
  isBusy = true;
  for (let job = waiting.shift(); job; job = waiting.shift()) {
    update();
    try {
      show(job, await ask(job.file));
    } catch (error) {
      job.card.classList.add("failed");
      job.box.classList.add("none"); // a browser may well show the half of it that is whole
      job.body.replaceChildren(make("p", "verdict", "Can’t be read"), make("p", "quiet", error.message));
    }
  }
  isBusy = false;
  update();
}

/** Fill a card: the likeliest class, whether the model is sure, and bars. */
function show(job, { shares, ms, width, height, isScaled }) {
  const order = shares.map((_, label) => label).sort((a, b) => shares[b] - shares[a] || a - b);
  const best = order[0], held = order.filter((label) => label === best || shares[label] >= facts.threshold);
  const isSure = facts.threshold === null || (held.length === 1 && shares[best] >= facts.threshold);
  job.card.classList.toggle("unsure", !isSure);
  const bars = order.slice(0, SHOWN).filter((label) => label === best || shares[label] >= LEAST).map((label) => {
    const fill = make("i");
    fill.style.width = percent(shares[label]);
    return make("li", "", named(label), make("b", "", percent(shares[label])), make("span", "bar", fill));
  });
  const names = held.slice(0, SHOWN).map((label) => facts.classes[label]);
  if (held.length > SHOWN) names.push(`${held.length - SHOWN} more`);
  const doubt = isSure ? null : make("p", "doubt", held.length > 1 ? `Not sure: ${joined(names)}` : "Not sure");
  if (doubt) doubt.dir = "auto";
  const parts = [make("p", "verdict", named(best)), doubt, judged(job.label, best), make("ul", "bars", ...bars)];
  job.body.replaceChildren(...parts.filter(Boolean));
  const scaled = isScaled ? ", scaled to 16 megapixels first" : "";
  job.caption.append(make("span", "facts", `, ${width}\u00a0×\u00a0${height}\u00a0px${scaled}, ${Math.round(ms)}\u00a0ms`));
  job.card.dataset.shares = JSON.stringify(shares);
}

/** Say whether a test picture got the class of its label. */
function judged(label, best) {
  if (label === undefined) return null;
  return label === best ? make("p", "right", "✓ as labelled") : make("p", "wrong", "✗ labelled ", named(label));
}

function update() {
  const cards = find("#results ol").childElementCount, left = waiting.length + isBusy;
  find("#results").hidden = !cards;
  find("#count").textContent = counted(cards, "picture", "pictures");
  if (hasFailed) return;
  find("#state").textContent = !ask ? "Loading the model …" : left ? `${counted(left, "picture", "pictures")} to go …` : cards ? "Done" : "Ready";
}

/** Fill in what the page says of itself. */
function describe() {
  const names = facts.classes.slice(0, NAMED).join(", ");
  const more = facts.classes.length > NAMED ? ` and ${facts.classes.length - NAMED} more` : "";
  find("#about").textContent = `A model that knows ${counted(facts.classes.length, "class", "classes")}: ${names}${more}.`;
  for (const [term, text] of facts.card) find("#card dl").append(make("dt", "", term), make("dd", "", text));
  for (const { picture, label } of facts.examples) {
    const image = Object.assign(make("img"), { src: `data:image/jpeg;base64,${picture}`, alt: "" });
    const button = Object.assign(make("button", "", image, named(label)), { type: "button" });
    button.setAttribute("aria-label", `Try a test picture of ${facts.classes[label]}`);
    button.onclick = () => add([{ file: new Blob([bytesOf(picture)], { type: "image/jpeg" }), name: "test picture", label }]);
    find("#examples ul").append(make("li", "", button));
  }
  find("#examples").hidden = !facts.examples.length;
  if (facts.threshold !== null) document.documentElement.style.setProperty("--threshold", percent(facts.threshold));
}

/** Listen for files chosen, photographed, dropped and pasted. */
function attend() {
  const take = (files, name) => files.length && add([...files].map((file) => ({ file, name: name ?? file.name })));
  for (const id of ["files", "camera"]) {
    const input = document.getElementById(id);
    input.onchange = () => {
      take(input.files, id === "camera" ? "photo" : undefined);
      input.value = "";
    };
  }
  let depth = 0;
  const lit = (by) => {
    depth = by ? Math.max(0, depth + by) : 0;
    document.body.classList.toggle("over", depth > 0);
  };
  document.addEventListener("dragenter", () => lit(1));
  document.addEventListener("dragleave", () => lit(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    lit(0);
    take(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files, "pasted picture"));
  find("#clear").onclick = () => [...find("#results ol").children].forEach((card) => card.drop());
}

/** Begin once the packed files, which come last, are there. */
async function begin() {
  const packed = { size: facts.size, runtime: taken("runtime"), wasm: taken("wasm"), model: taken("model") };
  try {
    ask = await start(packed);
    document.documentElement.dataset.ready = Math.round(performance.now());
    work();
  } catch (error) {
    hasFailed = true;
    const old = typeof DecompressionStream === "undefined" || typeof WebAssembly === "undefined";
    find("#state").textContent = old
      ? "This browser is too old; one of 2023 or later is needed."
      : `The model can’t be started: ${error.message}`;
    find("#state").className = "note";
  }
  update();
}

describe();
attend();
document.addEventListener("DOMContentLoaded", begin);
