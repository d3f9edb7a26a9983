// Decodes and classifies. Runs in a worker, so that the page never stands still, or on the page where there is none.
"use strict";

const MOST_PIXELS = 16_000_000; // of what the model is given: what a phone's canvas can hold, and its memory
const SCALED_PIXELS = 100_000_000; // as images/pixels.py
const LEAST_SIDE = 2; // px, as images/formats.py
let ort, session, size;

/** Return the bytes that base64 stands for. */
function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

/** Return what was deflated and written as base64, in pieces: one text of a large model may be too long for a browser. */
async function unpack(pieces) {
  const stream = new DecompressionStream("deflate"), writer = stream.writable.getWriter();
  const whole = new Response(stream.readable).arrayBuffer();
  const written = (async () => {
    for (const piece of pieces) await writer.write(bytesOf(piece));
    await writer.close();
  })();
  return new Uint8Array((await Promise.all([whole, written]))[0]);
}

/** Make the model ready. One thread: a page that is opened as a file gets no shared memory. */
async function load(packed) {
  size = packed.size;
  const code = new Blob([await unpack(packed.runtime)], { type: "text/javascript" });
  const address = URL.createObjectURL(code);
  ort = await import(address);
  URL.revokeObjectURL(address);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = (await unpack(packed.wasm)).buffer;
  const how = { executionProviders: ["wasm"], logSeverityLevel: 3 };
  session = await ort.InferenceSession.create(await unpack(packed.model), how);
  await score(new Uint8Array(3 * size * size), [1, size, size, 3]); // the first run compiles, so none waits for it
}

/** Return the picture upright in RGB, colour profiles passed over, transparency laid on white, as the pipeline does. */
async function pixelsOf(file) {
  const begin = new Uint8Array(await file.slice(0, 3).arrayBuffer());
  if (begin[0] === 0xff && begin[1] === 0xd8 && !(await hasEnd(file))) throw new Error("the file is cut short");
  const how = { imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none" };
  let picture;
  try {
    picture = await createImageBitmap(file, how);
  } catch {
    throw new Error(file.size ? "not a picture that this browser can read; JPEG, PNG, WebP, GIF and BMP are" : "the file is empty");
  }
  const { width, height } = picture, short = Math.min(width, height), long = Math.max(width, height);
  if (short < LEAST_SIDE) throw new Error(`${width} × ${height} px: too small`);
  if (size * Math.floor(size * long / short) > SCALED_PIXELS) throw new Error(`${width} × ${height} px: too narrow`);
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  const canvas = canvasOf(Math.max(1, Math.floor(width * scale)), Math.max(1, Math.floor(height * scale)));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error(`${width} × ${height} px: more than this browser can hold`);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const rgb = new Uint8Array(data.length / 4 * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  return { rgb, shape: [1, canvas.height, canvas.width, 3], width, height, isScaled: scale < 1 };
}

/** Whether a JPEG has its end marker; browsers fill what is missing with grey. */
async function hasEnd(file) {
  const data = new Uint8Array(await file.arrayBuffer());
  for (let at = data.lastIndexOf(0xd9); at > 0; at = data.lastIndexOf(0xd9, at - 1)) {
    if (data[at - 1] === 0xff) return true;
  }
  return false;
}

function canvasOf(width, height) {
  if (typeof OffscreenCanvas !== "undefined") return new OffscreenCanvas(width, height);
  return Object.assign(document.createElement("canvas"), { width, height });
}

/** Return a probability for every class, and the milliseconds from the file to them. */
async function classify(file) {
  const begun = performance.now();
  const { rgb, shape, ...picture } = await pixelsOf(file);
  const shares = await score(rgb, shape);
  if (!shares.every(Number.isFinite)) throw new Error("the model gave no number");
  return { ...picture, shares, ms: performance.now() - begun };
}

async function score(rgb, shape) {
  const { probabilities } = await session.run({ pictures: new ort.Tensor("uint8", rgb, shape) }, ["probabilities"]);
  return Array.from(probabilities.data);
}

/** Answer the page, in a worker. */
function listen() {
  self.onmessage = async ({ data: { id, packed, file } }) => {
    try {
      self.postMessage({ id, answer: packed ? await load(packed) : await classify(file) });
    } catch (error) {
      self.postMessage({ id, error: String(error?.message ?? error) });
    }
  };
}
