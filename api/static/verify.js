// An independent verifier of proof bundles, written from docs/proof-bundle.md. WebCrypto alone: SHA-256, P-256, Ed25519.
// Runs in browsers (in a secure context) and in Node 20. It shares no code with core/proofs.py, only test vectors.

import {
  Refused, b64u, canonicalText, classOf, entryKind, hex, isName, isSame, latin, readBundle, readDisclosure, readMessage, readRecord, readStateLeaf, refuse, splitNote, unb64, unb64u,
  unhex, utf8,
} from "./verify-forms.js";
import { Nodes, all, byte, checkInclusion, join, leafHash, sha256 } from "./verify-tree.js";

export { Refused };

const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
const UP_MAX = 5;
const [LOT, TRANSFORMATION] = [4, 5];
const INPUTS = [2, 3, 5];
const OPERATOR = 1;
const BY_OPERATOR = ["org", "equivocation", "refusal", "erasure", "audit"];

const number64 = (value) => { const bytes = new Uint8Array(8); new DataView(bytes.buffer).setBigUint64(0, BigInt(value)); return bytes; };
const number32 = (value) => { const bytes = new Uint8Array(4); new DataView(bytes.buffer).setUint32(0, value); return bytes; };
export const mapKey = (kind, id) => (["item", "device", "key", "org"].includes(kind) ? sha256(utf8(`tracebond/${kind}/1`), byte(0), utf8(id)) : refuse("bad_kind", "There is no such kind of map key."));

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

/** The eth_calls that a bundle needs, in order: [{to, data}]. */
export async function questions(bytes) {
  return questionsOf(await readBundle(bytes, mapKey));
}

async function questionsOf(bundle) {
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
    if (fact !== null && isHere(bundle, fact)) asked.push({ to: bundle.registry, data: `0x38a5b111${hex(await mapKey("org", fact.org))}${word(fact.version)}` });
  }
  return asked;
}

// After the contracts were deployed anew, an org record may be of another registry than the bundle's: nobody can ask about it.
const isHere = (bundle, fact) => fact.place.get("registry") === bundle.registry;

// An entry that cannot be read raises no question; its check comes after its inclusion, with the reason.
function organisationIn(entry) {
  try {
    if (entryKind(entry.data) !== "record") return null;
    entry.record ??= readRecord(entry.data);
    return entry.record.fact.t === "org" ? entry.record.fact : null;
  } catch (error) {
    if (error instanceof Refused) return null;
    throw error;
  }
}

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
  const bundle = await readBundle(bytes, mapKey);
  const own = bundle.histories.get(hex(await mapKey("item", bundle.item)));
  if (!own?.name) refuse("missing_history", "The item's own history is left out.");
  const product = classOf(bundle.item);
  progress("form");
  if (bundle.contract !== policy.log_contract.toLowerCase()) refuse("wrong_contract", "The bundle names another log contract than the pinned one.");
  if (answers.chain_id !== bundle.chainId || answers.genesis !== bundle.genesis) refuse("wrong_chain", "The node answers for another chain than the bundle names.");
  const { root, checkpointKey, others, predecessors, words } = await readAnswers(bundle, answers);
  const nodes = new Nodes(1);
  const state = await checkState(bundle, root, nodes);
  progress("anchor");
  const cosigners = await checkCheckpoint(bundle, state, root, checkpointKey, policy.lacks_ed25519 === true);
  progress("checkpoint");
  const log = { bundle, own, nodes, messages: new Map(), records: new Map(), signerOf: new Map(), confirmedBy: new Map(), keys: new Map() };
  await all([...bundle.entries.values()].map((entry) => checkEntry(log, entry, root, state.log)));
  progress("entries");
  await checkOrganisations(log, words);
  await checkRecords(log);
  progress("records");
  const mapNodes = new Nodes(3);
  await all([...bundle.histories.values()].map((history) => checkHistory(log, history, state.mapRoot, mapNodes)));
  progress("histories");
  const suspects = new Set();
  await all(inOrder(log.messages).map(async ([index, message]) => { if (await checkSigner(log, index, message)) suspects.add(index); }));
  const required = await closure(log, product);
  await checkNothingMore(log, required);
  progress("signatures");
  return report(log, { state, root, suspects, required, cosigners, others, predecessors, policy });
}

async function readAnswers(bundle, answers) {
  const asked = await questionsOf(bundle);
  const calls = answers.calls.map((text) => (/^0x([0-9a-fA-F]{2})*$/.test(text) ? unhex(text.slice(2)) : new Uint8Array(0)));
  const [logs, count] = [7 * 32, bundle.before.length];
  if (calls.length !== asked.length || ![logs, 32, 32, 32, ...Array(count).fill(logs)].every((length, at) => calls[at].length === length)) refuse("bad_answer", "The chain's answers do not have the expected form.");
  const state = readStateLeaf(bundle.stateLeaf);
  if (!isSame(calls[0].subarray(0, 32), await sha256(utf8(state.log)))) refuse("wrong_log", "The contract keeps this log under another origin.");
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

async function checkState(bundle, root, nodes) {
  const state = readStateLeaf(bundle.stateLeaf);
  if (state.size !== bundle.size || bundle.size === 0) refuse("wrong_size", "The state leaf is for another size.");
  await checkInclusion(bundle.size - 1, bundle.size, await leafHash(bundle.stateLeaf), bundle.statePath, root, nodes);
  return state;
}

/** The cosigners, with their keys as spelled; each has signed what the log signed. Without Ed25519 none can be counted. */
async function checkCheckpoint(bundle, state, root, logKey, lacksEd25519) {
  const fail = (why) => refuse("bad_checkpoint", `The checkpoint fails: ${why}.`);
  const cosigners = await all(bundle.cosigners.map(readVerifier));
  if (cosigners.some(({ kind }) => kind !== 4)) refuse("bad_verifier_key", "A cosigner's key is of the kind for cosignatures.");
  const signers = [{ name: state.log, kind: 1, key: logKey }, ...cosigners];
  const { text, signatures } = splitNote(bundle.checkpoint);
  const names = new Set(signatures.map((signature) => signature.name));
  if (signatures.length !== signers.length || names.size !== signers.length) fail("it is signed by the log, then by each cosigner");
  for (const [at, { name, kind, key }] of signers.entries()) {
    const id = (await sha256(utf8(`${name}\n`), byte(kind), key)).subarray(0, 4);
    if (signatures[at].name !== name || !isSame(signatures[at].bytes.subarray(0, 4), id)) fail("a signature is by another key");
  }
  if (!bundle.cosigners.every((spelled, at) => at === 0 || isBelow(bundle.cosigners[at - 1], spelled))) fail("cosigners stand in ascending order");
  if (text !== `${state.log}\n${bundle.size}\n${btoa(latin(root))}\n`) fail("it is not the anchored one");
  if (lacksEd25519) return [];
  await all(signers.map((signer, at) => checkNoteSignature(signer, text, signatures[at].bytes)));
  return cosigners;
}

function isBelow(left, right) {
  const [one, other] = [utf8(left), utf8(right)];
  const at = one.findIndex((value, place) => value !== other[place]);
  return at < 0 ? one.length <= other.length : one[at] < (other[at] ?? -1);
}

async function checkNoteSignature({ kind, key }, text, bytes) {
  if (kind === 1) return checkEd25519(key, bytes.subarray(4), utf8(text));
  if (bytes.length !== 76) refuse("bad_signature", "A cosignature has another length.");
  const time = new DataView(bytes.buffer, bytes.byteOffset + 4, 8).getBigUint64(0);
  if (time >= 2n ** 63n) refuse("bad_signature", "A cosignature's time is beyond 2^63 - 1.");
  return checkEd25519(key, bytes.subarray(12), utf8(`cosignature/v1\ntime ${time}\n${text}`));
}

async function readVerifier(spelled) {
  const fail = () => refuse("bad_verifier_key", "A verifier key is name+hash+base64.");
  const [, name, id, key] = /^([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]{44})$/s.exec(spelled) ?? fail();
  const raw = unb64(key);
  if (!isName(name) || ![1, 4].includes(raw[0]) || hex((await sha256(utf8(`${name}\n`), raw)).subarray(0, 4)) !== id) fail();
  return { spelled, name, kind: raw[0], key: raw.subarray(1) };
}

async function checkEd25519(raw, signature, data) {
  const fail = () => refuse("bad_signature", "An Ed25519 signature does not fit.");
  const key = await crypto.subtle.importKey("raw", raw, { name: "Ed25519" }, false, ["verify"]).catch(fail);
  if (signature.length !== 64 || !(await crypto.subtle.verify({ name: "Ed25519" }, key, signature, data))) fail();
}

async function checkEntry(log, entry, root, origin) {
  await checkInclusion(entry.index, log.bundle.size, await hashOf(entry), entry.path, root, log.nodes);
  const kind = entryKind(entry.data);
  if (kind === "message") {
    const message = readMessage(entry.data);
    const shown = await matchDisclosures(message, entry.disclosures);
    message.id = b64u(await sha256(message.jws.input));
    message.shown = shown;
    for (const [event, leaves] of entry.items) await checkItems(message, event, leaves, log.nodes);
    log.messages.set(entry.index, message);
  } else if (kind === "record" && !entry.disclosures.length && !entry.items.size) {
    const record = entry.record ?? readRecord(entry.data);
    if (record.fact.log !== origin) refuse("wrong_log", "A record is of another log.");
    log.records.set(entry.index, record);
  } else refuse("bad_bundle", "Only messages and records stand among the entries.");
}

// The leaf hash, made once: every step of a history binds it.
const hashOf = (entry) => { entry.hash ??= leafHash(entry.data); return entry.hash; };

async function matchDisclosures(message, texts) {
  const places = new Map();
  for (const [event, clear] of message.events.entries()) for (const [at, digest] of clear.get("_sd").entries()) if (!places.has(digest)) places.set(digest, [event, at]);
  const shown = message.events.map(() => []);
  const read = await all(texts.map(async (text) => ({ ...readDisclosure(text), digest: b64u(await sha256(utf8(text))) })));
  if (new Set(read.map(({ digest }) => digest)).size !== read.length) refuse("bad_disclosure", "A disclosure stands twice.");
  let last = [-1, 0];
  for (const disclosure of read) {
    const place = places.get(disclosure.digest) ?? refuse("bad_disclosure", "A disclosure belongs to no event.");
    if (place[0] < last[0] || (place[0] === last[0] && place[1] <= last[1])) refuse("bad_disclosure", "Disclosures stand in the order of their digests.");
    last = place;
    if (shown[place[0]].includes(disclosure.name)) refuse("bad_disclosure", "One member is disclosed twice.");
    shown[place[0]].push(disclosure.name);
  }
  return shown;
}

async function checkItems(message, event, leaves, nodes) {
  const items = message.events[event]?.get("items") ?? refuse("bad_item_leaves", "Item leaves name no event of their message.");
  const [total, root] = [items.get("n"), unb64u(items.get("root"), 32)];
  if (!leaves.every((leaf, at) => at === 0 || leaves[at - 1].index < leaf.index)) refuse("bad_item_leaves", "Item leaves stand in order, each once.");
  await all(leaves.map(async (leaf) => checkInclusion(leaf.index, total, await leafHash(join(byte(leaf.role), leaf.key)), leaf.path, root, nodes)));
  // Every leaf from 0 to the first of role > 5 must be there: no parent, input or lot can be left out.
  const end = leaves.findIndex((leaf) => leaf.role > UP_MAX);
  const needed = end < 0 ? total : end + 1;
  if (leaves.length < needed || !leaves.slice(0, needed).every((leaf, at) => leaf.index === at)) refuse("hidden_up_link", "An up-link of an event is left out.");
}

async function thumbprint(jwk) {
  if (!(jwk instanceof Map) || jwk.size !== 4 || jwk.get("kty") !== "EC" || jwk.get("crv") !== "P-256") refuse("bad_key", "A public key is a P-256 JWK.");
  return b64u(await sha256(utf8(`{"crv":"P-256","kty":"EC","x":"${jwk.get("x")}","y":"${jwk.get("y")}"}`)));
}

async function checkEs256(keys, jwk, jws) {
  const fail = () => refuse("bad_signature", "A signature does not fit its key and bytes.");
  if ((await thumbprint(jwk)) !== jws.kid) refuse("wrong_signer", "A signature names another key.");
  if (jws.signature.length !== 64) fail();
  const [r, s] = [BigInt(`0x${hex(jws.signature.subarray(0, 32))}`), BigInt(`0x${hex(jws.signature.subarray(32))}`)];
  if (r <= 0n || r >= ORDER || s <= 0n || s > ORDER / 2n) fail();
  if (!keys.has(jws.kid)) keys.set(jws.kid, importP256(jwk));
  const key = await keys.get(jws.kid);
  if (!(await crypto.subtle.verify({ name: "ECDSA", hash: "SHA-256" }, key, jws.signature, jws.input))) fail();
}

async function importP256(jwk) {
  const plain = { kty: "EC", crv: "P-256", x: b64u(unb64u(jwk.get("x"), 32)), y: b64u(unb64u(jwk.get("y"), 32)) };
  return crypto.subtle.importKey("jwk", plain, { name: "ECDSA", namedCurve: "P-256" }, false, ["verify"]).catch(() => refuse("bad_key", "The point is not on P-256."));
}

const inOrder = (map) => [...map].sort((left, right) => left[0] - right[0]);

async function checkOrganisations(log, answers) {
  const fail = () => refuse("wrong_organisation", "An org record differs from the contract.");
  const { bundle } = log;
  const records = inOrder(log.records).filter(([, { fact }]) => fact.t === "org").map(([index, { fact }]) => [index, fact]);
  const here = records.filter(([, fact]) => isHere(bundle, fact));
  if (here.length !== answers.length) refuse("bad_answer", "The chain's answers do not have the expected form.");
  for (const [at, [, fact]] of here.entries()) {
    const answer = answers[at];
    const place = Object.fromEntries(fact.place);
    const word = (position) => answer.subarray(32 * position, 32 * position + 32);
    const value = (position) => BigInt(`0x${hex(word(position))}`);
    if (answer.length !== 128 || b64u(word(0)) !== (await thumbprint(fact.jwk)) || hex(word(1).subarray(12)) !== fact.account.slice(2)) fail();
    if (value(2) !== BigInt(fact.roles) || value(3) !== BigInt(place.number) || place.chain_id !== bundle.chainId) fail();
  }
  const said = (fact) => canonicalText(["org", "jwk", "roles", "account"].map((name) => fact[name]));
  for (const [index, fact] of records) {
    if (isHere(bundle, fact)) continue;
    const [later] = here.find(([at, other]) => at > index && said(other) === said(fact)) ?? refuse("wrong_organisation", "An org record is of another registry and not confirmed.");
    log.confirmedBy.set(index, later);
  }
}

async function checkRecords(log) {
  const signers = new Map();
  for (const [index, { fact }] of inOrder(log.records)) {
    if (fact.t !== "org") continue;
    const kid = await thumbprint(fact.jwk);
    const known = signers.get(kid) ?? [];
    if (known.some(({ signer }) => isHere(log.bundle, signer) === isHere(log.bundle, fact))) refuse("bad_bundle", "One record key stands in two org records.");
    signers.set(kid, [{ at: index, signer: fact }, ...known]);
  }
  await all(inOrder(log.records).map(async ([index, { jws, fact }]) => {
    const known = signers.get(jws.kid) ?? refuse("unknown_signer", "The signer of a record has no org record here.");
    const { at, signer } = known.find((one) => one.at <= index) ?? known.at(-1);
    await checkEs256(log.keys, signer.jwk, jws);
    if (BY_OPERATOR.includes(fact.t)) {
      if (!(signer.roles & OPERATOR)) refuse("wrong_signer", "This record is the operator's to sign.");
    } else if (signer.org !== fact.org) refuse("wrong_signer", "A record is signed by another organisation.");
    if (at > index || (at === index && fact.t !== "org")) refuse("wrong_signer", "A record comes before its signer's organisation.");
    log.signerOf.set(index, at);
  }));
}

async function recordKeys(fact) {
  const org = () => mapKey("org", fact.org);
  switch (fact.t) {
    case "key": case "equivocation": return [await mapKey("key", fact.kid), await org(), await mapKey("device", fact.iss)];
    case "end": return [await mapKey("key", fact.kid), await org()];
    case "refusal": return [await mapKey("device", fact.iss)];
    case "org": return [await org()];
    case "master": return [await org(), await mapKey("item", fact.subject)];
    case "erasure": return fact.owner.get("items").map((key) => unb64u(key, 32));
    default: return [];
  }
}

async function checkHistory(log, history, mapRoot, nodes) {
  let head = new Uint8Array(32);
  for (const [index, event] of history.steps) {
    const entry = log.bundle.entries.get(index) ?? refuse("missing_entry", "A step of a history has no entry here.");
    const record = log.records.get(index);
    const names = record ? event === 0 && (await recordKeys(record.fact)).some((key) => isSame(key, history.key)) : (entry.items.get(event) ?? []).some((leaf) => leaf.hex === history.hex);
    if (!names) refuse("foreign_step", "An entry does not name the key it is said to step.");
    head = await sha256(byte(5), head, number64(index), number32(event), await hashOf(entry));
  }
  const value = history.steps.length ? await sha256(byte(4), number64(history.steps.length), head) : null;
  await checkMap(history, value, mapRoot, nodes);
}

const bit = (key, depth) => (key[depth >> 3] >> (7 - (depth & 7))) & 1;
const isEmpty = (node) => node.every((value) => value === 0);

async function checkMap(history, value, root, nodes) {
  const fail = () => refuse("bad_map_proof", "The proof of a history's place in the map fails.");
  const { key, siblings, other } = history;
  const depth = siblings.length;
  if (depth > 256) fail();
  let current = new Uint8Array(32);
  if (value) current = await sha256(byte(2), key, value);
  else if (other) {
    if (isSame(other[0], key)) fail();
    for (let level = 0; level < depth; level += 1) if (bit(key, level) !== bit(other[0], level)) fail();
    current = await sha256(byte(2), ...other);
  }
  if (isEmpty(current) && depth && isEmpty(siblings[depth - 1])) fail();
  for (let level = depth - 1; level >= 0; level -= 1) {
    current = await (bit(key, level) ? nodes.hash(siblings[level], current) : nodes.hash(current, siblings[level]));
  }
  if (!isSame(current, root)) fail();
}

/** All that stands in the bundle is needed, so that nothing can be taken out of it or put into it unseen. */
async function checkNothingMore(log, required) {
  const kids = new Set(await all([...log.messages.values()].map(async ({ jws }) => hex(await mapKey("key", jws.kid)))));
  const [used, named] = [new Set(), new Map()];
  for (const [key, history] of log.bundle.histories) {
    if (!required.has(key) && !(kids.has(key) && history.name)) refuse("stray_history", "A history has nothing to do with the item.");
    for (const [index, event] of history.steps) {
      used.add(index);
      if (!required.has(key)) continue;
      const place = `${index} ${event}`;
      named.set(place, (named.get(place) ?? new Set()).add(key));
    }
  }
  for (const index of used) for (const rests of [log.signerOf, log.confirmedBy]) if (rests.has(index)) used.add(rests.get(index));
  if (used.size !== log.bundle.entries.size) refuse("stray_entry", "An entry belongs to no history.");
  for (const [index, message] of inOrder(log.messages)) {
    if (message.shown.some((shown, event) => shown.length && !named.has(`${index} ${event}`))) refuse("bad_disclosure", "A disclosure is of an event that no history names.");
    for (const [event, leaves] of log.bundle.entries.get(index).items) {
      const first = leaves.findIndex((leaf) => leaf.role > UP_MAX);
      const keys = named.get(`${index} ${event}`);
      if (!keys || (first >= 0 && leaves.slice(first + 1).some((leaf) => !keys.has(leaf.hex)))) refuse("bad_item_leaves", "An item leaf is of no history here.");
    }
  }
}

/** Whether a message is suspect; refuses one whose key did not count at its place in the log. */
async function checkSigner(log, index, message) {
  const history = log.bundle.histories.get(hex(await mapKey("key", message.jws.kid))) ?? refuse("missing_key_history", "The history of a signing key is left out.");
  const steps = history.steps.flatMap(([at]) => (log.records.has(at) ? [[at, log.records.get(at).fact]] : []));
  const keys = steps.filter(([, fact]) => fact.t === "key");
  if (keys.length !== 1 || keys[0][0] >= index) refuse("unknown_key", "A message comes before the record of its key.");
  const fact = keys[0][1];
  message.use = fact.use;
  if (fact.org !== message.org || fact.iss !== message.iss || fact.aud !== message.aud) refuse("wrong_device", "A message names another device or organisation than its key's record.");
  if (!["device", "gateway"].includes(fact.use)) refuse("wrong_use", "The key's record does not let it sign messages.");
  await checkEs256(log.keys, fact.jwk, message.jws);
  for (const [at, end] of steps) {
    if (end.t === "equivocation" && message.seq >= end.seq) return true;
    if (end.t !== "end") continue;
    if (message.seq > end.seq && index > at) refuse("ended_key", "A message comes after the end of its key.");
    if (message.seq > end.seq || (index > at && message.id !== end.last)) return true;
  }
  return false;
}

async function closure(log, product) {
  const open = [await mapKey("item", log.bundle.item), ...(product ? [await mapKey("item", product)] : [])].map(hex);
  const required = new Set();
  while (open.length) {
    const key = open.pop();
    if (required.has(key)) continue;
    required.add(key);
    for (const [index, event] of log.bundle.histories.get(key)?.steps ?? []) {
      const leaves = log.bundle.entries.get(index).items.get(event) ?? [];
      const others = leaves.filter((leaf) => leaf.hex !== key);
      const roles = leaves.filter((leaf) => leaf.hex === key).map((leaf) => leaf.role);
      // Container, inputs and lot of a thing; inputs alone of a lot and of a transformation.
      if (roles.some((role) => role > UP_MAX)) open.push(...others.filter((leaf) => leaf.role <= UP_MAX).map((leaf) => leaf.hex));
      else if (roles.includes(LOT) || roles.includes(TRANSFORMATION)) open.push(...others.filter((leaf) => INPUTS.includes(leaf.role)).map((leaf) => leaf.hex));
    }
  }
  return required;
}

function report(log, { state, root, suspects, required, cosigners, others, predecessors, policy }) {
  const { bundle, own } = log;
  const hidden = (index, event) => log.messages.get(index).events[event].get("_sd").length - log.messages.get(index).shown[event].length;
  const events = own.steps.filter(([index]) => log.messages.has(index)).map(([index, event]) => {
    const message = log.messages.get(index);
    return {
      leaf: index, number: event, org: message.org, device: message.iss, kid: message.jws.kid, hidden: hidden(index, event),
      signed_by: message.use === "gateway" ? "gateway" : "device", is_suspect: suspects.has(index), time: message.events[event].get("eventTime") ?? "",
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
