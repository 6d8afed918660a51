// An independent verifier of proof bundles, written from docs/proof-bundle.md. WebCrypto alone: SHA-256, P-256, Ed25519.
// Runs in browsers (in a secure context) and in Node 20. It shares no code with core/proofs.py, only test vectors.

import {
  Refused, b64u, classOf, hex, isSame, readBundle, readDisclosure, readMessage, readRecord, readStateLeaf, splitNote, unb64, unb64u, unhex, utf8,
} from "./verify-forms.js";

export { Refused };

const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
const UP_MAX = 5;
const OPERATOR = 1;
const BY_OPERATOR = ["org", "equivocation", "refusal", "erasure", "audit"];
const refuse = (code, message) => { throw new Refused(code, message); };

function join(...parts) {
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  parts.reduce((at, part) => { whole.set(part, at); return at + part.length; }, 0);
  return whole;
}

const sha256 = async (...parts) => new Uint8Array(await crypto.subtle.digest("SHA-256", join(...parts)));
const byte = (value) => Uint8Array.of(value);
const number64 = (value) => { const bytes = new Uint8Array(8); new DataView(bytes.buffer).setBigUint64(0, BigInt(value)); return bytes; };
const number32 = (value) => { const bytes = new Uint8Array(4); new DataView(bytes.buffer).setUint32(0, value); return bytes; };
const leafHash = (data) => sha256(byte(0), data);
const nodeHash = (left, right) => sha256(byte(1), left, right);
export const mapKey = (kind, id) => (["item", "device", "key", "org"].includes(kind) ? sha256(utf8(`tracebond/${kind}/1`), byte(0), utf8(id)) : refuse("bad_kind", "There is no such kind of map key."));

/** Why this environment cannot check a bundle: "", "insecure" (no WebCrypto outside https) or "ed25519". */
export async function missing() {
  if (!globalThis.crypto?.subtle) return "insecure";
  try {
    await crypto.subtle.importKey("raw", new Uint8Array(32), { name: "Ed25519" }, false, ["verify"]);
  } catch (error) {
    return error.name === "NotSupportedError" || error instanceof TypeError ? "ed25519" : "";
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
  ];
  for (const entry of bundle.entries.values()) {
    if (entry.kind !== "record") continue;
    const { fact } = readRecord(entry.data);
    if (fact.t === "org") asked.push({ to: bundle.registry, data: `0x38a5b111${hex(await mapKey("org", fact.org))}${word(fact.version)}` });
  }
  return asked;
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
 * @param {{log_contract: string, mirrors?: string[], mirrors_min?: number}} policy what the reader pins
 * @param {(stage: string) => void} progress told of each stage that holds
 * @throws {Refused} with a stable code; the first check that fails ends it
 */
export async function verify(bytes, answers, policy, progress = () => {}) {
  const bundle = await readBundle(bytes, mapKey);
  const product = classOf(bundle.item);
  progress("form");
  if (bundle.contract !== policy.log_contract.toLowerCase()) refuse("wrong_contract", "The bundle names another log contract than the pinned one.");
  if (answers.chain_id !== bundle.chainId || answers.genesis !== bundle.genesis) refuse("wrong_chain", "The node answers for another chain than the bundle names.");
  const { root, checkpointKey, others, words } = await readAnswers(bundle, answers);
  const state = await checkState(bundle, root);
  progress("anchor");
  const mirrors = await checkCheckpoint(bundle, state, root, checkpointKey, policy.mirrors ?? []);
  progress("checkpoint");
  const log = { bundle, messages: new Map(), records: new Map(), organisations: new Map() };
  await Promise.all([...bundle.entries.values()].map((entry) => checkEntry(log, entry, root, state.log)));
  progress("entries");
  await checkOrganisations(log, words);
  await checkRecords(log);
  progress("records");
  await Promise.all([...bundle.histories.values()].map((history) => checkHistory(log, history, state.mapRoot)));
  checkAllUsed(log);
  progress("histories");
  const suspects = new Set();
  await Promise.all([...log.messages].map(async ([index, message]) => { if (await checkSigner(log, index, message)) suspects.add(index); }));
  progress("signatures");
  const required = await closure(log, product);
  return report(log, { state, root, suspects, required, mirrors, others, isCosigned: mirrors.length >= Math.max(1, policy.mirrors_min ?? 1) });
}

async function readAnswers(bundle, answers) {
  const asked = await questionsOf(bundle);
  const calls = answers.calls.map((text) => (/^0x([0-9a-fA-F]{64})+$/.test(text) ? unhex(text.slice(2)) : refuse("bad_answer", "The chain's answers do not have the expected form.")));
  if (calls.length !== asked.length || calls[0].length !== 7 * 32) refuse("bad_answer", "The chain's answers do not have the expected form.");
  const state = readStateLeaf(bundle.stateLeaf);
  if (!isSame(calls[0].subarray(0, 32), await sha256(utf8(state.log)))) refuse("wrong_log", "The contract keeps this log under another origin.");
  const root = calls[1];
  if (root.length !== 32 || root.every((value) => value === 0)) refuse("not_anchored", `Size ${bundle.size} is not anchored in the contract.`);
  if (!isSame(calls[3].subarray(12), unhex(bundle.registry.slice(2)))) refuse("wrong_registry", "The contract names another organisation registry.");
  return { root, checkpointKey: calls[0].subarray(32, 64), others: Number(BigInt(`0x${hex(calls[2])}`)) - 1, words: calls.slice(4) };
}

async function checkState(bundle, root) {
  const state = readStateLeaf(bundle.stateLeaf);
  if (state.size !== bundle.size || bundle.size === 0) refuse("wrong_size", "The state leaf is for another size.");
  await checkInclusion(bundle.size - 1, bundle.size, await leafHash(bundle.stateLeaf), bundle.statePath, root);
  return state;
}

/** RFC 9162, section 2.1.3.2. */
async function checkInclusion(index, size, leaf, path, root) {
  const fail = () => refuse("bad_inclusion_proof", `The inclusion proof of leaf ${index} fails.`);
  if (!(index < size)) fail();
  let [fn, sn, current] = [BigInt(index), BigInt(size - 1), leaf];
  for (const sibling of path) {
    if (sn === 0n) fail();
    if (fn & 1n || fn === sn) {
      current = await nodeHash(sibling, current);
      while (!(fn & 1n) && fn) { fn >>= 1n; sn >>= 1n; }
    } else current = await nodeHash(current, sibling);
    fn >>= 1n;
    sn >>= 1n;
  }
  if (sn !== 0n || !isSame(current, root)) fail();
}

async function checkCheckpoint(bundle, state, root, logKey, pinned) {
  const fail = (why) => refuse("bad_checkpoint", `The checkpoint fails: ${why}.`);
  const { text, signatures } = splitNote(bundle.checkpoint);
  const verifiers = [{ name: state.log, kind: 1, key: logKey }, ...(await Promise.all(bundle.cosigners.map(readVerifier)))];
  const names = signatures.map((signature) => signature.name);
  if (names.length !== verifiers.length || new Set(names).size !== names.length) fail("it is signed by the log, then by each cosigner");
  for (const [at, { name, kind, key }] of verifiers.entries()) {
    const { bytes } = signatures[at];
    const id = (await sha256(utf8(`${name}\n`), byte(kind), key)).subarray(0, 4);
    if (names[at] !== name || !isSame(bytes.subarray(0, 4), id)) fail("a signature is by another key");
    if (bytes.length !== (kind === 4 ? 76 : 68)) fail("a signature has another length");
    const time = kind === 4 ? new DataView(bytes.buffer, 4, 8).getBigUint64(0) : 0n;
    const signed = kind === 4 ? `cosignature/v1\ntime ${time}\n${text}` : text;
    await checkEd25519(key, bytes.subarray(kind === 4 ? 12 : 4), utf8(signed));
  }
  if (text !== `${state.log}\n${bundle.size}\n${btoa(String.fromCharCode(...root))}\n`) fail("it is not the anchored one");
  return bundle.cosigners.flatMap((spelled, at) => (pinned.includes(spelled) ? [verifiers[at + 1].name] : [])).sort();
}

async function readVerifier(spelled) {
  const fail = () => refuse("bad_verifier_key", "A verifier key is name+hash+base64.");
  const [, name, id, key] = /^([^\s+]+)\+([0-9a-f]{8})\+(.+)$/.exec(spelled) ?? fail();
  const raw = unb64(key);
  if (raw.length !== 33 || ![1, 4].includes(raw[0]) || hex((await sha256(utf8(`${name}\n`), raw)).subarray(0, 4)) !== id) fail();
  return { name, kind: raw[0], key: raw.subarray(1) };
}

async function checkEd25519(raw, signature, data) {
  const fail = () => refuse("bad_signature", "An Ed25519 signature does not fit.");
  const key = await crypto.subtle.importKey("raw", raw, { name: "Ed25519" }, false, ["verify"]).catch(fail);
  if (signature.length !== 64 || !(await crypto.subtle.verify({ name: "Ed25519" }, key, signature, data))) fail();
}

async function checkEntry(log, entry, root, origin) {
  await checkInclusion(entry.index, log.bundle.size, await leafHash(entry.data), entry.path, root);
  if (entry.kind === "message") {
    const message = readMessage(entry.data);
    message.id = b64u(await sha256(message.jws.input));
    message.shown = await matchDisclosures(message, entry.disclosures);
    for (const [event, leaves] of entry.items) await checkItems(message, event, leaves);
    log.messages.set(entry.index, message);
  } else if (entry.kind === "record" && !entry.disclosures.length && !entry.items.size) {
    const record = readRecord(entry.data);
    if (record.fact.log !== origin) refuse("wrong_log", "A record is of another log.");
    log.records.set(entry.index, record);
  } else refuse("bad_bundle", "Only messages and records stand among the entries.");
}

async function matchDisclosures(message, texts) {
  const shown = message.events.map(() => []);
  for (const text of texts) {
    const disclosure = readDisclosure(text);
    const digest = b64u(await sha256(utf8(text)));
    const at = message.events.findIndex((event) => event.get("_sd").includes(digest));
    if (at < 0 || shown[at].some((other) => other.digest === digest || other.name === disclosure.name)) refuse("bad_disclosure", "A disclosure belongs to no event, or stands twice.");
    shown[at].push({ ...disclosure, digest });
  }
  return shown;
}

async function checkItems(message, event, leaves) {
  const items = message.events[event]?.get("items") ?? refuse("bad_item_leaves", "Item leaves name no event of their message.");
  const [total, root] = [items.get("n"), unb64u(items.get("root"), 32)];
  if (!leaves.every((leaf, at) => at === 0 || leaves[at - 1].index < leaf.index)) refuse("bad_item_leaves", "Item leaves stand in order, each once.");
  await Promise.all(leaves.map(async (leaf) => checkInclusion(leaf.index, total, await leafHash(join(byte(leaf.role), leaf.key)), leaf.path, root)));
  // Every leaf from 0 to the first of role > 5 must be there: no parent, input or lot can be left out.
  const end = leaves.findIndex((leaf) => leaf.role > UP_MAX);
  const needed = end < 0 ? total : end + 1;
  if (leaves.length < needed || !leaves.slice(0, needed).every((leaf, at) => leaf.index === at)) refuse("hidden_up_link", "An up-link of an event is left out.");
}

async function thumbprint(jwk) {
  if (!(jwk instanceof Map) || jwk.size !== 4 || jwk.get("kty") !== "EC" || jwk.get("crv") !== "P-256") refuse("bad_key", "A public key is a P-256 JWK.");
  return b64u(await sha256(utf8(`{"crv":"P-256","kty":"EC","x":"${jwk.get("x")}","y":"${jwk.get("y")}"}`)));
}

async function checkEs256(jwk, jws) {
  const fail = () => refuse("bad_signature", "A signature does not fit its key and bytes.");
  if ((await thumbprint(jwk)) !== jws.kid) refuse("wrong_signer", "A signature names another key.");
  const [r, s] = [BigInt(`0x${hex(jws.signature.subarray(0, 32))}`), BigInt(`0x${hex(jws.signature.subarray(32)) || "0"}`)];
  if (jws.signature.length !== 64 || r <= 0n || r >= ORDER || s <= 0n || s > ORDER / 2n) fail();
  const algorithm = { name: "ECDSA", namedCurve: "P-256" };
  const plain = { kty: "EC", crv: "P-256", x: b64u(unb64u(jwk.get("x"), 32)), y: b64u(unb64u(jwk.get("y"), 32)) };
  const key = await crypto.subtle.importKey("jwk", plain, algorithm, false, ["verify"]).catch(fail);
  if (!(await crypto.subtle.verify({ name: "ECDSA", hash: "SHA-256" }, key, jws.signature, jws.input))) fail();
}

const inOrder = (map) => [...map].sort((left, right) => left[0] - right[0]);

async function checkOrganisations(log, answers) {
  const fail = () => refuse("wrong_organisation", "An org record differs from the contract.");
  const records = inOrder(log.records).filter(([, { fact }]) => fact.t === "org");
  for (const [at, [index, { fact }]] of records.entries()) {
    const answer = answers[at] ?? fail();
    const place = Object.fromEntries(fact.place);
    const word = (position) => answer.subarray(32 * position, 32 * position + 32);
    const value = (position) => BigInt(`0x${hex(word(position))}`);
    const isSaid = answer.length === 128 && b64u(word(0)) === (await thumbprint(fact.jwk)) && hex(word(1).subarray(12)) === fact.account.slice(2);
    if (!isSaid || value(2) !== BigInt(fact.roles) || value(3) !== BigInt(place.number)) fail();
    if (place.chain_id !== log.bundle.chainId || place.registry !== log.bundle.registry) fail();
    if (!log.organisations.has(fact.org)) log.organisations.set(fact.org, index);
  }
}

async function checkRecords(log) {
  const signers = new Map();
  for (const [, { fact }] of inOrder(log.records)) if (fact.t === "org") signers.set(await thumbprint(fact.jwk), fact);
  await Promise.all([...log.records].map(async ([index, { jws, fact }]) => {
    const signer = signers.get(jws.kid) ?? refuse("unknown_signer", "The signer of a record has no org record here.");
    await checkEs256(signer.jwk, jws);
    if (fact.t === "key" && (await thumbprint(fact.jwk)) !== fact.kid) refuse("bad_record", "kid is the thumbprint of jwk.");
    if (BY_OPERATOR.includes(fact.t)) {
      if (!(signer.roles & OPERATOR)) refuse("wrong_signer", "This record is the operator's to sign.");
    } else if (signer.org !== fact.org || !(log.organisations.get(fact.org) < index)) refuse("wrong_signer", "A record is signed by another organisation, or before its own.");
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

async function checkHistory(log, history, mapRoot) {
  let head = new Uint8Array(32);
  for (const [index, event] of history.steps) {
    const entry = log.bundle.entries.get(index) ?? refuse("missing_entry", "A step of a history has no entry here.");
    const record = log.records.get(index);
    const names = record ? event === 0 && (await recordKeys(record.fact)).some((key) => isSame(key, history.key)) : (entry.items.get(event) ?? []).some((leaf) => leaf.hex === history.hex);
    if (!names) refuse("foreign_step", "An entry does not name the key it is said to step.");
    head = await sha256(byte(5), head, number64(index), number32(event), await leafHash(entry.data));
  }
  const value = history.steps.length ? await sha256(byte(4), number64(history.steps.length), head) : null;
  await checkMap(history, value, mapRoot);
}

const bit = (key, depth) => (key[depth >> 3] >> (7 - (depth & 7))) & 1;
const isEmpty = (node) => node.every((value) => value === 0);

async function checkMap(history, value, root) {
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
    current = bit(key, level) ? await sha256(byte(3), siblings[level], current) : await sha256(byte(3), current, siblings[level]);
  }
  if (!isSame(current, root)) fail();
}

function checkAllUsed(log) {
  const used = new Set([...log.bundle.histories.values()].flatMap((history) => history.steps.map(([index]) => index)));
  for (const [index, { fact }] of log.records) if (fact.t === "org") used.add(index);
  for (const index of log.bundle.entries.keys()) if (!used.has(index)) refuse("bad_bundle", "An entry belongs to no history.");
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
  await checkEs256(fact.jwk, message.jws);
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
      if (leaves.some((leaf) => leaf.hex === key && leaf.role > UP_MAX)) open.push(...leaves.filter((leaf) => leaf.role <= UP_MAX && leaf.hex !== key).map((leaf) => leaf.hex));
    }
  }
  return required;
}

async function report(log, { state, root, suspects, required, mirrors, others, isCosigned }) {
  const { bundle } = log;
  const own = bundle.histories.get(hex(await mapKey("item", bundle.item))) ?? refuse("missing_history", "The item's own history is left out.");
  const events = own.steps.filter(([index]) => log.messages.has(index)).map(([index, event]) => {
    const message = log.messages.get(index);
    return {
      leaf: index, number: event, org: message.org, device: message.iss, kid: message.jws.kid, hidden: message.events[event].get("_sd").length - message.shown[event].length,
      signed_by: message.use === "gateway" ? "gateway" : "device", is_suspect: suspects.has(index), time: message.events[event].get("eventTime") ?? "",
    };
  });
  const covered = [...required].filter((key) => bundle.histories.has(key)).length;
  const uncovered = required.size - covered;
  return {
    item: bundle.item, origin: state.log, size: bundle.size, root: b64u(root), time: state.time,
    block: state.block ? { chain_id: state.block.chain_id, number: state.block.number, hash: state.block.hash } : null,
    contract: bundle.contract, chain_id: bundle.chainId, events, uncovered, mirrors, other_logs: others,
    coverage: uncovered === 0 ? "whole" : covered > 1 ? "partial" : "own",
    completeness: isCosigned && uncovered === 0 ? "cosigned" : "operator",
    hidden: events.reduce((total, event) => total + event.hidden, 0),
  };
}
