// RFC 9162 proofs through the browser's module: one JSON case a line, {kind, ...} with base64 hashes and sizes as
// decimal strings (they may pass 2^53); "ok" or the refusal's code comes out, a line each.
import { createInterface } from "node:readline";
import { Refused } from "../../api/static/verify-bytes.js";
import { checkConsistency, checkInclusion } from "../../api/static/verify-tree.js";

const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));

for await (const line of createInterface({ input: process.stdin })) {
  const value = JSON.parse(line);
  const proof = value.proof.map(bytes);
  try {
    if (value.kind === "inclusion") await checkInclusion(BigInt(value.index), BigInt(value.size), bytes(value.leaf), proof, bytes(value.root));
    else await checkConsistency(BigInt(value.size1), BigInt(value.size2), proof, bytes(value.root1), bytes(value.root2));
    console.log("ok");
  } catch (error) {
    console.log(error instanceof Refused ? error.code : `crash: ${error.stack.replaceAll("\n", " ")}`);
  }
}
