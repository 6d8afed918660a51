// Runs the browser's verifier over a corpus: a line {log, known, chain_id, genesis} tells what a node knows of a log,
// a line {bundle, log, policy} is a case. One result a line comes out: {asked?, report} or {refused}.
import { createInterface } from "node:readline";
import { Refused, questions, verify } from "../../api/static/verify.js";

const logs = new Map();
const ROOT_AT = "0xdfe4bf36";

function answer(known, { to, data }) {
  return known[`${to} ${data}`] ?? (data.startsWith(ROOT_AT) ? `0x${"00".repeat(32)}` : "0x");
}

for await (const line of createInterface({ input: process.stdin })) {
  const value = JSON.parse(line);
  if (value.known) {
    logs.set(value.log, value);
    continue;
  }
  const bytes = new Uint8Array(Buffer.from(value.bundle, "base64"));
  const log = logs.get(value.log);
  try {
    const asked = await questions(bytes);
    const answers = { chain_id: log.chain_id, genesis: log.genesis, calls: asked.map((question) => answer(log.known, question)) };
    console.log(JSON.stringify({ report: await verify(bytes, answers, value.policy) }));
  } catch (error) {
    console.log(JSON.stringify({ refused: error instanceof Refused ? error.code : `crash: ${error.stack}` }));
  }
}
