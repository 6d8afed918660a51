// What a chain's answers say of a bundle: its place, the state leaf, the checkpoint and its signatures.

import { Refused, b64, byte, hex, isSame, isUpTo, refuse, unb64, unhex, utf8 } from "./verify-bytes.js";
import { entryKind, isName, mapKey, readRecord, readStateLeaf, splitNote } from "./verify-forms.js";
import { sha256 } from "./verify-sha256.js";
import { checkInclusion, leafHash } from "./verify-tree.js";

/** Waits for all and gives the results in order; the first refusal in that order counts, whichever came first in time. */
export async function all(promises) {
  const settled = await Promise.allSettled(promises);
  const failed = settled.find((one) => one.status === "rejected");
  if (failed) throw failed.reason;
  return settled.map((one) => one.value);
}

/** The eth_calls that a bundle needs, in order: [{to, data}]. */
export function questionsOf(bundle) {
  const word = (value) => BigInt(value).toString(16).padStart(64, "0");
  const log = word(bundle.logId);
  const asked = [
    { to: bundle.contract, data: `0x4bc43391${log}` },
    { to: bundle.contract, data: `0xdfe4bf36${log}${word(bundle.size)}` },
    { to: bundle.contract, data: "0x28874705" },
    { to: bundle.contract, data: "0xabf0e71f" },
    ...bundle.before.map((number) => ({ to: bundle.contract, data: `0x4bc43391${word(number)}` })),
  ];
  for (const entry of bundle.entries.values()) {
    const fact = organisationIn(entry);
    if (fact !== null && isHere(bundle, fact)) asked.push({ to: bundle.registry, data: `0x38a5b111${hex(mapKey("org", fact.org))}${word(fact.version)}` });
  }
  return asked;
}

// After the contracts were deployed anew, an org record may be of another registry than the bundle's: nobody can ask about it.
export const isHere = (bundle, fact) => fact.place.registry === bundle.registry;

// An entry that cannot be read raises no question; its check comes after its inclusion, with the reason.
function organisationIn(entry) {
  try {
    if (entryKind(entry) !== "record") return null;
    entry.record ??= readRecord(entry);
    return entry.record.fact.t === "org" ? entry.record.fact : null;
  } catch (error) {
    if (error instanceof Refused) return null;
    throw error;
  }
}

export function readAnswers(bundle, answers) {
  const asked = questionsOf(bundle);
  const calls = answers.calls.map((text) => (/^0x([0-9a-fA-F]{2})*$/.test(text) ? unhex(text.slice(2)) : new Uint8Array(0)));
  const [logs, count] = [7 * 32, bundle.before.length];
  if (calls.length !== asked.length || ![logs, 32, 32, 32, ...Array(count).fill(logs)].every((length, at) => calls[at].length === length)) refuse("bad_answer", "The chain's answers do not have the expected form.");
  const state = readStateLeaf(bundle.stateLeaf);
  if (!isSame(calls[0].subarray(0, 32), sha256(utf8(state.log)))) refuse("wrong_log", "The contract keeps this log under another origin.");
  const predecessors = readPredecessors(bundle, [calls[0], ...calls.slice(4, 4 + count)]);
  const root = calls[1];
  if (root.every((value) => value === 0)) refuse("not_anchored", `Size ${bundle.size} is not anchored in the contract.`);
  if (!isSame(calls[3].subarray(12), unhex(bundle.registry.slice(2)))) refuse("wrong_registry", "The contract names another organisation registry.");
  return { root, checkpointKey: calls[0].subarray(32, 64), others: Number(BigInt(`0x${hex(calls[2])}`)) - 1 - count, predecessors, words: calls.slice(4 + count) };
}

/** The frozen logs that this one goes on from, nearest first: number, and up to which size their history is covered. */
function readPredecessors({ before, size }, logs) {
  const value = (answer, place) => BigInt(`0x${hex(answer.subarray(32 * place, 32 * place + 32))}`);
  let least = BigInt(size);
  return [...before, null].flatMap((number, at) => {
    if (value(logs[at], 2) !== (number === null ? 2n ** 256n - 1n : BigInt(number))) refuse("wrong_log", "The bundle does not name the logs that its log goes on from.");
    if (number === null) return [];
    const good = value(logs[at + 1], 6);
    if (good < least) least = good;
    return [[number, Number(least)]];
  });
}

export function checkState(bundle, root) {
  const state = readStateLeaf(bundle.stateLeaf);
  if (state.size !== bundle.size || bundle.size === 0) refuse("wrong_size", "The state leaf is for another size.");
  checkInclusion(bundle.size - 1, bundle.size, leafHash(bundle.stateLeaf), bundle.statePath, root);
  return state;
}

/** The cosigners, with their keys as spelled; each has signed what the log signed. Without Ed25519 none can be counted. */
export async function checkCheckpoint(bundle, state, root, logKey, lacksEd25519) {
  const fail = (why) => refuse("bad_checkpoint", `The checkpoint fails: ${why}.`);
  const cosigners = bundle.cosigners.map(readVerifier);
  if (cosigners.some(({ kind }) => kind !== 4)) refuse("bad_verifier_key", "A cosigner's key is of the kind for cosignatures.");
  const signers = [{ name: state.log, kind: 1, key: logKey }, ...cosigners];
  const { text, signatures } = splitNote(bundle.checkpoint);
  const names = new Set(signatures.map((signature) => signature.name));
  if (signatures.length !== signers.length || names.size !== signers.length) fail("it is signed by the log, then by each cosigner");
  for (const [at, { name, kind, key }] of signers.entries()) {
    const id = sha256(utf8(`${name}\n`), byte(kind), key).subarray(0, 4);
    if (signatures[at].name !== name || !isSame(signatures[at].bytes.subarray(0, 4), id)) fail("a signature is by another key");
  }
  if (!bundle.cosigners.every((spelled, at) => at === 0 || isUpTo(utf8(bundle.cosigners[at - 1]), utf8(spelled)))) fail("cosigners stand in ascending order");
  if (text !== `${state.log}\n${bundle.size}\n${b64(root)}\n`) fail("it is not the anchored one");
  if (lacksEd25519) return [];
  await all(signers.map((signer, at) => checkNoteSignature(signer, text, signatures[at].bytes)));
  return cosigners;
}

async function checkNoteSignature({ kind, key }, text, bytes) {
  if (kind === 1) return checkEd25519(key, bytes.subarray(4), utf8(text));
  if (bytes.length !== 76) refuse("bad_signature", "A cosignature has another length.");
  const time = new DataView(bytes.buffer, bytes.byteOffset + 4, 8).getBigUint64(0);
  if (time >= 2n ** 63n) refuse("bad_signature", "A cosignature's time is beyond 2^63 - 1.");
  return checkEd25519(key, bytes.subarray(12), utf8(`cosignature/v1\ntime ${time}\n${text}`));
}

function readVerifier(spelled) {
  const fail = () => refuse("bad_verifier_key", "A verifier key is name+hash+base64.");
  const [, name, id, key] = /^([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]{44})$/s.exec(spelled) ?? fail();
  const raw = unb64(key);
  if (!isName(name) || ![1, 4].includes(raw[0]) || hex(sha256(utf8(`${name}\n`), raw).subarray(0, 4)) !== id) fail();
  return { spelled, name, kind: raw[0], key: raw.subarray(1) };
}

async function checkEd25519(raw, signature, data) {
  const fail = () => refuse("bad_signature", "An Ed25519 signature does not fit.");
  const key = await crypto.subtle.importKey("raw", raw, { name: "Ed25519" }, false, ["verify"]).catch(fail);
  if (signature.length !== 64 || !(await crypto.subtle.verify({ name: "Ed25519" }, key, signature, data))) fail();
}
