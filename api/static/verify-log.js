// The entries of a bundle: inclusion, disclosures, item leaves, organisations, records and signatures.

import { b64u, byte, hex, isSame, refuse, unb64u, utf8 } from "./verify-bytes.js";
import { all, isHere } from "./verify-chain.js";
import { entryKind, mapKey, readDisclosure, readMessage, readRecord } from "./verify-forms.js";
import { canonicalText, isObject } from "./verify-json.js";
import { sha256 } from "./verify-sha256.js";
import { checkInclusion, leafHash } from "./verify-tree.js";

const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
const UP_MAX = 5;
const OPERATOR = 1;
const BY_OPERATOR = ["org", "equivocation", "refusal", "erasure", "audit"];

/** One entry is in the log and reads as what it must be; its parts go to log.messages or log.records. */
export function checkEntry(log, entry, root, origin) {
  entry.hash = leafHash(entry.data);
  checkInclusion(entry.index, log.bundle.size, entry.hash, entry.path, root);
  const kind = entryKind(entry);
  if (kind === "message") {
    const message = readMessage(entry);
    message.shown = matchDisclosures(message, entry.disclosures);
    for (const [event, leaves] of entry.items) checkItems(message, event, leaves);
    log.messages.set(entry.index, message);
  } else if (kind === "record" && !entry.disclosures.length && !entry.items.size) {
    const record = entry.record ?? readRecord(entry);
    if (record.fact.log !== origin) refuse("wrong_log", "A record is of another log.");
    log.records.set(entry.index, record);
  } else refuse("bad_bundle", "Only messages and records stand among the entries.");
}

function matchDisclosures(message, texts) {
  const places = new Map();
  for (const [event, clear] of message.events.entries()) for (const [at, digest] of clear._sd.entries()) if (!places.has(digest)) places.set(digest, [event, at]);
  const shown = message.events.map(() => []);
  const read = texts.map((text) => ({ ...readDisclosure(text), digest: b64u(sha256(utf8(text))) }));
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

function checkItems(message, event, leaves) {
  const items = message.events[event]?.items ?? refuse("bad_item_leaves", "Item leaves name no event of their message.");
  const [total, root] = [items.n, unb64u(items.root, 32)];
  if (!leaves.every((leaf, at) => at === 0 || leaves[at - 1].index < leaf.index)) refuse("bad_item_leaves", "Item leaves stand in order, each once.");
  for (const leaf of leaves) checkInclusion(leaf.index, total, leafHash(byte(leaf.role), leaf.key), leaf.path, root);
  // Every leaf from 0 to the first of role > 5 must be there: no parent, input or lot can be left out.
  const end = leaves.findIndex((leaf) => leaf.role > UP_MAX);
  const needed = end < 0 ? total : end + 1;
  if (leaves.length < needed || !leaves.slice(0, needed).every((leaf, at) => leaf.index === at)) refuse("hidden_up_link", "An up-link of an event is left out.");
}

function thumbprint(jwk) {
  if (!isObject(jwk) || Object.keys(jwk).sort().join() !== "crv,kty,x,y" || jwk.kty !== "EC" || jwk.crv !== "P-256") refuse("bad_key", "A public key is a P-256 JWK.");
  return b64u(sha256(utf8(`{"crv":"P-256","kty":"EC","x":"${jwk.x}","y":"${jwk.y}"}`)));
}

async function checkEs256(keys, jwk, jws) {
  const fail = () => refuse("bad_signature", "A signature does not fit its key and bytes.");
  if (thumbprint(jwk) !== jws.kid) refuse("wrong_signer", "A signature names another key.");
  if (jws.signature.length !== 64) fail();
  const [r, s] = [BigInt(`0x${hex(jws.signature.subarray(0, 32))}`), BigInt(`0x${hex(jws.signature.subarray(32))}`)];
  if (r <= 0n || r >= ORDER || s <= 0n || s > ORDER / 2n) fail();
  if (!keys.has(jws.kid)) keys.set(jws.kid, importP256(jwk));
  const key = await keys.get(jws.kid);
  if (!(await crypto.subtle.verify({ name: "ECDSA", hash: "SHA-256" }, key, jws.signature, jws.input))) fail();
}

async function importP256(jwk) {
  const plain = { kty: "EC", crv: "P-256", x: b64u(unb64u(jwk.x, 32)), y: b64u(unb64u(jwk.y, 32)) };
  return crypto.subtle.importKey("jwk", plain, { name: "ECDSA", namedCurve: "P-256" }, false, ["verify"]).catch(() => refuse("bad_key", "The point is not on P-256."));
}

export const inOrder = (map) => [...map].sort((left, right) => left[0] - right[0]);

/** Each org record is what the contract answered, or is confirmed by a later one that is. */
export function checkOrganisations(log, answers) {
  const fail = () => refuse("wrong_organisation", "An org record differs from the contract.");
  const { bundle } = log;
  const records = inOrder(log.records).filter(([, { fact }]) => fact.t === "org").map(([index, { fact }]) => [index, fact]);
  const here = records.filter(([, fact]) => isHere(bundle, fact));
  if (here.length !== answers.length) refuse("bad_answer", "The chain's answers do not have the expected form.");
  for (const [at, [, fact]] of here.entries()) {
    const answer = answers[at];
    const { place } = fact;
    const word = (position) => answer.subarray(32 * position, 32 * position + 32);
    const value = (position) => BigInt(`0x${hex(word(position))}`);
    if (answer.length !== 128 || b64u(word(0)) !== thumbprint(fact.jwk) || hex(word(1).subarray(12)) !== fact.account.slice(2)) fail();
    if (value(2) !== BigInt(fact.roles) || value(3) !== BigInt(place.number) || place.chain_id !== bundle.chainId) fail();
  }
  const said = (fact) => canonicalText(["org", "jwk", "roles", "account"].map((name) => fact[name]));
  for (const [index, fact] of records) {
    if (isHere(bundle, fact)) continue;
    const [later] = here.find(([at, other]) => at > index && said(other) === said(fact)) ?? refuse("wrong_organisation", "An org record is of another registry and not confirmed.");
    log.confirmedBy.set(index, later);
  }
}

/** Each record is signed by the key that the contract knows for its organisation, or for an operator. */
export async function checkRecords(log) {
  const signers = new Map();
  for (const [index, { fact }] of inOrder(log.records)) {
    if (fact.t !== "org") continue;
    const kid = thumbprint(fact.jwk);
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

/** Whether a message is suspect; refuses one whose key did not count at its place in the log. */
export async function checkSigner(log, index, message) {
  const history = log.bundle.histories.get(b64u(mapKey("key", message.jws.kid))) ?? refuse("missing_key_history", "The history of a signing key is left out.");
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
    if (message.seq > end.seq || (index > at && b64u(sha256(message.jws.input)) !== end.last)) return true;
  }
  return false;
}
