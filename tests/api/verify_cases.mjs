// Runs the browser's verifier under Node: one JSON case a line {bundle, answers, policy} in base64 / plain, one JSON result a line out.
import { createInterface } from "node:readline";
import { Refused, questions, verify } from "../../api/static/verify.js";

for await (const line of createInterface({ input: process.stdin })) {
  const { bundle, answers, policy } = JSON.parse(line);
  const bytes = new Uint8Array(Buffer.from(bundle, "base64"));
  try {
    const asked = await questions(bytes);
    console.log(JSON.stringify({ asked, report: await verify(bytes, answers, policy) }));
  } catch (error) {
    console.log(JSON.stringify({ refused: error instanceof Refused ? error.code : `crash: ${error.stack}` }));
  }
}
