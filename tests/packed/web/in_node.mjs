// Run plain and packed models in onnxruntime-web under Node, and say whether outputs are equal.
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

const [, , folder, ...names] = process.argv;
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

async function outputs(path, x, dims) {
  const start = performance.now();
  const session = await ort.InferenceSession.create(readFileSync(path));
  const load = performance.now() - start;
  const feeds = { [session.inputNames[0]]: new ort.Tensor("float32", x, dims) };
  const data = (await session.run(feeds))[session.outputNames[0]].data;
  return { bytes: Buffer.from(data.buffer, data.byteOffset, data.byteLength), load };
}

const found = {};
for (const name of names) {
  const { dims } = JSON.parse(readFileSync(`${folder}/${name}.json`));
  const raw = readFileSync(`${folder}/${name}.f32`);
  const x = new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.byteLength));
  const plain = await outputs(`${folder}/${name}.plain.onnx`, x, dims);
  const packed = await outputs(`${folder}/${name}.packed.onnx`, x, dims);
  found[name] = {
    equal: plain.bytes.equals(packed.bytes),
    numbers: plain.bytes.length / 4,
    plain: plain.load,
    packed: packed.load,
  };
}
console.log(JSON.stringify(found));
