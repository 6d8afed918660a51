// An independent verifier of proof bundles, written from docs/proof-bundle.md. WebCrypto checks the signatures: P-256, Ed25519.
// Runs in browsers (in a secure context) and in Node 20. It shares no code with core/proofs.py, only test vectors.

import { Refused, b64u, refuse, unhex } from "./verify-bytes.js";
import { all, checkCheckpoint, checkState, questionsOf, readAnswers } from "./verify-chain.js";
import { mapKey, readBundle } from "./verify-forms.js";
import { classOf } from "./verify-gs1.js";
import { checkEntry, checkOrganisations, checkRecords, checkSigner, inOrder } from "./verify-log.js";
import { checkHistory, checkNothingMore, closure } from "./verify-map.js";

export { Refused, questionsOf, readBundle };

/** Why this environment cannot check a bundle: "", "insecure" (no WebCrypto outside https) or "ed25519". */
export async function missing() {
  if (!globalThis.crypto?.subtle) return "insecure";
  try {
    // The public key of RFC 8032, section 7.1, test 1: any browser that knows Ed25519 can read it.
    await crypto.subtle.importKey("raw", unhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"), { name: "Ed25519" }, false, ["verify"]);
  } catch {
    return "ed25519";
  }
  return "";
}

/** The eth_calls that a bundle's bytes need, in order: [{to, data}]. */
export const questions = async (bytes) => questionsOf(readBundle(bytes));

/** Ask a JSON-RPC node: {chain_id, genesis, calls}. Uses `finalized` where the node knows it. */
export async function askNode(url, asked, fetcher = fetch) {
  let id = 0;
  const call = async (method, params) => {
    id += 1;
    const response = await fetcher(url, {
      method: "POST", credentials: "omit", headers: { "content-type": "application/json" },
      body: JSON.stringify({ jsonrpc: "2.0", id, method, params }),
    });
    if (!response.ok) refuse("node_away", `The node answered with status ${response.status}.`);
    const answer = await response.json();
    if (answer.error) refuse("node_error", String(answer.error.message ?? "The node refused the question."));
    return answer.result;
  };
  const chainId = Number(BigInt(await call("eth_chainId", [])));
  const genesis = (await call("eth_getBlockByNumber", ["0x0", false]))?.hash ?? "";
  const tag = await call("eth_getBlockByNumber", ["finalized", false]).then((block) => (block ? "finalized" : "latest"), () => "latest");
  const calls = [];
  for (const question of asked) calls.push(await call("eth_call", [question, tag]));
  return { chain_id: chainId, genesis, calls };
}

/**
 * What a bundle proves, given what a chain answered.
 * @param {Uint8Array} bytes the bundle
 * @param {{chain_id: number, genesis: string, calls: string[]}} answers to questions(bytes), in order, 0x hex
 * @param {{log_contract: string, mirrors?: string[], mirrors_min?: number, lacks_ed25519?: boolean}} policy what the reader pins; without
 *   Ed25519 no cosigner is counted, so that the bundle is complete according to the operator at most
 * @param {(stage: string) => void} progress told of each stage that holds
 * @throws {Refused} with a stable code; the first check that fails ends it
 */
export async function verify(bytes, answers, policy, progress = () => {}) {
  return verifyBundle(readBundle(bytes), answers, policy, progress);
}

/** The same of a bundle that was read, by readBundle, for its questions. */
export async function verifyBundle(bundle, answers, policy, progress = () => {}) {
  const own = bundle.histories.get(b64u(mapKey("item", bundle.item)));
  if (!own?.name) refuse("missing_history", "The item's own history is left out.");
  const product = classOf(bundle.item);
  progress("form");
  if (bundle.contract !== policy.log_contract.toLowerCase()) refuse("wrong_contract", "The bundle names another log contract than the pinned one.");
  if (answers.chain_id !== bundle.chainId || answers.genesis !== bundle.genesis) refuse("wrong_chain", "The node answers for another chain than the bundle names.");
  const { root, checkpointKey, others, predecessors, words } = readAnswers(bundle, answers);
  const state = checkState(bundle, root);
  progress("anchor");
  const cosigners = await checkCheckpoint(bundle, state, root, checkpointKey, policy.lacks_ed25519 === true);
  progress("checkpoint");
  const log = { bundle, own, messages: new Map(), records: new Map(), signerOf: new Map(), confirmedBy: new Map(), keys: new Map() };
  for (const entry of bundle.entries.values()) checkEntry(log, entry, root, state.log);
  progress("entries");
  checkOrganisations(log, words);
  await checkRecords(log);
  progress("records");
  for (const history of bundle.histories.values()) checkHistory(log, history, state.mapRoot);
  progress("histories");
  const suspects = new Set();
  await all(inOrder(log.messages).map(async ([index, message]) => { if (await checkSigner(log, index, message)) suspects.add(index); }));
  const required = closure(log, product);
  checkNothingMore(log, required);
  progress("signatures");
  return report(log, { state, root, suspects, required, cosigners, others, predecessors, policy });
}

function report(log, { state, root, suspects, required, cosigners, others, predecessors, policy }) {
  const { bundle, own } = log;
  const hidden = (index, event) => log.messages.get(index).events[event]._sd.length - log.messages.get(index).shown[event].length;
  const events = own.steps.filter(([index]) => log.messages.has(index)).map(([index, event]) => {
    const message = log.messages.get(index);
    return {
      leaf: index, number: event, org: message.org, device: message.iss, kid: message.jws.kid, hidden: hidden(index, event),
      signed_by: message.use === "gateway" ? "gateway" : "device", is_suspect: suspects.has(index), time: message.events[event].eventTime ?? "",
    };
  });
  const covered = [...required].map((key) => bundle.histories.get(key)).filter((history) => history !== undefined);
  const related = new Map(covered.flatMap((history) => history.steps.map((step) => [step.join(" "), step])));
  for (const step of own.steps) related.delete(step.join(" "));
  const uncovered = required.size - covered.length;
  const mirrors = cosigners.filter(({ spelled }) => (policy.mirrors ?? []).includes(spelled)).map(({ name }) => name).sort();
  const isCosigned = mirrors.length >= Math.max(1, policy.mirrors_min ?? 1);
  return {
    item: bundle.item, origin: state.log, size: bundle.size, root: b64u(root), time: state.time,
    block: state.block ? { chain_id: state.block.chain_id, number: state.block.number, hash: state.block.hash } : null,
    contract: bundle.contract, chain_id: bundle.chainId, events, uncovered, mirrors, other_logs: others, predecessors,
    cosigners: cosigners.map(({ name }) => name).sort(),
    coverage: uncovered === 0 ? "whole" : covered.length > 1 ? "partial" : "own",
    completeness: isCosigned && uncovered === 0 ? "cosigned" : "operator",
    hidden: events.reduce((total, event) => total + event.hidden, 0),
    hidden_related: [...related.values()].reduce((total, [index, event]) => total + (log.messages.has(index) ? hidden(index, event) : 0), 0),
    unnamed: covered.filter((history) => history.name === null).length,
  };
}
