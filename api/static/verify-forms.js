// The strict forms of docs/proof-bundle.md: the bundle, JWS, messages, records, state leaves and notes.
// Runs in browsers and in Node 20. Nothing here is verified yet: see verify.js.

import { Refused, b64u, isSame, isUpTo, refuse, unb64, unb64u, utf8 } from "./verify-bytes.js";
import { ascends, isObject, parseCanonical, parseJson } from "./verify-json.js";
import { sha256 } from "./verify-sha256.js";

const bad = (why) => refuse("bad_bundle", `This is no proof bundle: ${why}.`);

function members(value, names, fail = bad) {
  if (!isObject(value) || Object.keys(value).length !== names.length || !names.every((name) => Object.hasOwn(value, name))) fail(`an object of ${names.join(", ")} belongs here`);
  return value;
}

function list(value, most, each) {
  if (!Array.isArray(value) || value.length > most) bad(`a list of at most ${most} belongs here`);
  return value.map(each);
}

const text = (value) => (typeof value === "string" ? value : bad("a string belongs here"));
const count = (value) => (Number.isSafeInteger(value) && value >= 0 ? value : bad("an integer from 0 belongs here"));
const hash = (value) => unb64u(text(value), 32);
const hashes = (value) => list(value, 300, hash);
const pair = (value) => (Array.isArray(value) && value.length === 2 ? value : bad("a pair belongs here"));
const address = (value) => (/^0x[0-9a-f]{40}$/.test(text(value)) ? value : bad("an address is 0x and 40 lower-case hex digits"));
const has = (value, name) => isObject(value) && Object.hasOwn(value, name);
const isBefore = (left, right) => left[0] < right[0] || (left[0] === right[0] && left[1] < right[1]);

const KINDS = ["item", "device", "key", "org"];

/** The 32-byte map key of an id. */
export const mapKey = (kind, id) => (KINDS.includes(kind) ? sha256(utf8(`tracebond/${kind}/1\0${id}`)) : refuse("bad_kind", "There is no such kind of map key."));

/** The bundle in its RFC 8785 bytes. Map keys are named by their base64url text, which is one for each key. */
export function readBundle(bytes) {
  const { value, isCanonical } = parseCanonical(bytes, 32_000_000);
  if (!isCanonical()) refuse("not_canonical", "A bundle is its RFC 8785 bytes; these are others.");
  const top = members(value, ["v", "log", "item", "size", "state", "checkpoint", "cosigners", "histories", "entries"]);
  if (top.v !== 1) bad("this verifier knows version 1");
  const hasBefore = has(top.log, "before");
  const log = members(top.log, ["contract", "registry", "id", "chain_id", "genesis", ...(hasBefore ? ["before"] : [])]);
  const before = hasBefore ? list(log.before, 64, count) : [];
  if (hasBefore && !before.length) bad("an empty member is left out");
  const state = members(top.state, ["leaf", "path"]);
  const histories = list(top.histories, 2_000, readHistory);
  const entries = list(top.entries, 20_000, readEntry);
  if (!histories.every(({ key }, at) => at === 0 || (isUpTo(histories[at - 1].key, key) && !isSame(histories[at - 1].key, key)))) bad("histories stand in the order of their keys, each once");
  if (!entries.every((entry, at) => at === 0 || entries[at - 1].index < entry.index)) bad("entries stand in log order, each once");
  return {
    contract: address(log.contract), registry: address(log.registry), logId: count(log.id), before, chainId: count(log.chain_id), genesis: text(log.genesis),
    item: text(top.item), size: count(top.size), stateLeaf: utf8(text(state.leaf)), statePath: hashes(state.path), checkpoint: text(top.checkpoint),
    cosigners: list(top.cosigners, 64, text),
    histories: new Map(histories.map((history) => [history.id, history])),
    entries: new Map(entries.map((entry) => [entry.index, entry])),
  };
}

function readHistory(value) {
  const [isNamed, hasOther] = [has(value, "name"), has(value, "other")];
  const top = members(value, [isNamed ? "name" : "key", "steps", "siblings", ...(hasOther ? ["other"] : [])]);
  const name = isNamed ? pair(top.name).map(text) : null;
  const key = isNamed ? mapKey(...name) : hash(top.key);
  const steps = list(top.steps, 20_000, (part) => pair(part).map(count));
  if (!steps.every((part, at) => at === 0 || isBefore(steps[at - 1], part)) || (steps.length && hasOther)) bad("steps stand in log order, each once; other is for absent keys");
  return { key, id: b64u(key), name, steps, siblings: hashes(top.siblings), other: hasOther ? pair(top.other).map(hash) : null };
}

function readEntry(value) {
  const optional = ["disclosures", "items"].filter((name) => has(value, name));
  const top = members(value, ["index", "data", "path", ...optional]);
  const items = new Map();
  let last = -1;
  for (const part of list(optional.includes("items") ? top.items : [], 1_000, pair)) {
    const event = count(part[0]);
    if (event <= last) bad("events stand in order, each once");
    last = event;
    items.set(event, list(part[1], 20_000, readItemLeaf));
  }
  if (optional.some((name) => Array.isArray(top[name]) && top[name].length === 0)) bad("an empty member is left out");
  const plain = text(top.data);
  return { index: count(top.index), plain, data: utf8(plain), path: hashes(top.path), disclosures: list(optional.includes("disclosures") ? top.disclosures : [], 20_000, text), items };
}

function readItemLeaf(value) {
  if (!Array.isArray(value) || value.length !== 4) bad("an item leaf is index, role, key and path");
  const role = count(value[1]);
  if (role < 1 || role > 12) bad("a role is 1 to 12");
  return { index: count(value[0]), role, key: hash(value[2]), id: value[2], path: hashes(value[3]) };
}

/** message, record or state: what an entry's bytes are by their header. */
export function entryKind({ plain }) {
  if (plain.startsWith("{")) return "state";
  let header;
  try { header = parseJson(unb64u(plain.split(".", 1)[0]), 400, 2); } catch (error) { if (!(error instanceof Refused)) throw error; }
  const typ = has(header, "typ") ? header.typ : undefined;
  if (typ === "epcis+sd-jwt") return "message";
  return typ === "tb-record+jwt" ? "record" : refuse("bad_entry", "An entry is a message, a record or a state leaf.");
}

function readParts(parts) {
  try {
    return [parseJson(unb64u(parts[0]), 400, 2), unb64u(parts[1]), unb64u(parts[2])];
  } catch (error) {
    throw error instanceof Refused ? new Refused("bad_form", `A part of the JWT cannot be read: ${error.message}`) : error;
  }
}

function splitJws({ plain, data }, typ) {
  if (data.length > 60_000) refuse("too_large", "A JWT has at most 60,000 bytes.");
  const parts = plain.split(".");
  if (parts.length !== 3) refuse("bad_form", "A JWT is three base64url parts with dots between.");
  const [header, payload, signature] = readParts(parts);
  if (isObject(header) && (!has(header, "alg") || header.alg !== "ES256")) refuse("wrong_algorithm", "Only ES256 is taken.");
  const { typ: found, kid } = members(header, ["alg", "typ", "kid"], () => refuse("bad_header", "A header is exactly alg, typ and kid."));
  if (found !== typ || typeof kid !== "string" || kid.length !== 43) refuse("bad_header", "A header is exactly alg, typ and kid.");
  return { kid, input: data.subarray(0, data.length - parts[2].length - 1), payload, signature };
}

const MESSAGE = ["v", "aud", "org", "iss", "iat", "seq", "prev", "_sd_alg", "events"];
const EVENT = ["type", "action", "eventTime", "eventTimeZoneOffset", "bizStep", "disposition", "errorDeclaration", "items", "_sd"];
const badMessage = (why) => refuse("bad_payload", `The payload is not a message: ${why}.`);

/** A message by form. `events` are the objects that stand in clear. */
export function readMessage(entry) {
  const jws = splitJws(entry, "epcis+sd-jwt");
  const payload = parseJson(jws.payload, 60_000);
  const { v, aud, org, iss, iat, seq, prev, _sd_alg: algorithm, events } = members(payload, has(payload, "on_behalf_of") ? [...MESSAGE, "on_behalf_of"] : MESSAGE, badMessage);
  if (v !== 1 || algorithm !== "sha-256") badMessage("it has other members");
  if (![aud, org, iss].every((value) => typeof value === "string" && value)) badMessage("aud, org and iss are strings");
  if (![iat, seq].every((value) => Number.isSafeInteger(value) && value >= 0) || (prev === null) !== (seq === 0)) badMessage("iat, seq and prev do not fit");
  if (prev !== null) unb64u(prev, 32);
  if (!Array.isArray(events) || events.length < 1 || events.length > 500) badMessage("events is a list of 1 to 500");
  events.forEach(checkEvent);
  return { jws, aud, org, iss, seq, events };
}

function checkEvent(event) {
  const fits = has(event, "items") && has(event, "_sd") && Object.keys(event).every((name) => EVENT.includes(name));
  if (!fits) badMessage("an event holds only the members in clear, items and _sd");
  const items = members(event.items, ["n", "root"], badMessage);
  if (!Number.isSafeInteger(items.n) || items.n < 0) badMessage("items has a count n");
  unb64u(items.root, 32);
  const digests = event._sd;
  if (!Array.isArray(digests) || !digests.every((digest) => typeof digest === "string" && digest.length === 43) || !ascends(digests)) badMessage("_sd is sorted and holds each digest once");
}

const ERROR_CLEAR = ["declarationTime", "reason", "correctiveEventIDs"];

export function readDisclosure(textValue) {
  const fail = (why) => refuse("bad_disclosure", why);
  let plain;
  try { plain = unb64u(textValue); } catch (error) { throw error instanceof Refused ? new Refused("bad_disclosure", error.message) : error; }
  const value = parseJson(plain, 262_144);
  if (!Array.isArray(value) || value.length !== 3 || typeof value[0] !== "string" || typeof value[1] !== "string") fail("A disclosure is a list of salt, name and value.");
  const [salt, name, member] = value;
  if (unb64u(salt).length < 16 || EVENT.includes(name) || name === "...") fail("A salt has 128 bits, and clear members are never disclosed.");
  if (name === "tb:errorDeclaration" && !(isObject(member) && !ERROR_CLEAR.some((clear) => has(member, clear)))) fail("It holds the rest of an error declaration.");
  return { name, value: member };
}

const COMMON = ["v", "t", "aud", "log", "org", "iat"];
const RECORD = {
  org: ["name", "roles", "account", "jwk", "version", "place"], key: ["kid", "jwk", "iss", "use", "scope"], end: ["kid", "last", "seq", "reason"],
  master: ["subject", "fact", "value"], equivocation: ["kid", "iss", "seq", "ids"], refusal: ["message", "kid", "iss", "seq", "prev", "code"],
  erasure: ["leaf", "event", "names", "owner"], audit: ["row"],
};

/** A record by form; its payload is its RFC 8785 bytes. */
export function readRecord(entry) {
  const jws = splitJws(entry, "tb-record+jwt");
  const { value: payload, isCanonical } = parseCanonical(jws.payload, 60_000);
  const fail = (why) => refuse("bad_record", `A record has another form: ${why}.`);
  if (!has(payload, "t") || typeof payload.t !== "string" || !Object.hasOwn(RECORD, payload.t)) fail("t is unknown");
  const fact = members(payload, [...COMMON, ...RECORD[payload.t]], fail);
  if (fact.v !== 1 || !Number.isSafeInteger(fact.iat) || ![fact.aud, fact.log, fact.org].every((value) => typeof value === "string" && value)) fail("v, iat, aud, log or org");
  if (!isCanonical()) fail("its payload is its RFC 8785 bytes");
  if (fact.t === "org") checkOrganisation(fact, fail);
  if (fact.t === "key" && !(typeof fact.iss === "string" && ["device", "gateway", "receipt", "mirror"].includes(fact.use))) fail("use or iss");
  if (fact.t === "end" && ((fact.last === null) !== (fact.seq === -1) || !Number.isSafeInteger(fact.seq))) fail("last and seq");
  if (fact.t === "erasure" && !(has(fact.owner, "items") && Array.isArray(fact.owner.items))) fail("owner");
  return { jws, fact };
}

function checkOrganisation(fact, fail) {
  const place = members(fact.place, ["chain_id", "number", "registry"], fail);
  const isRight = Number.isSafeInteger(fact.roles) && fact.roles > 0 && fact.roles < 256 && Number.isSafeInteger(fact.version) && fact.version >= 0;
  if (!isRight || !/^0x[0-9a-f]{40}$/.test(fact.account) || !/^0x[0-9a-f]{40}$/.test(place.registry)) fail("roles, version, account or place");
}

export function readStateLeaf(data) {
  const fail = () => refuse("bad_state_leaf", "This is no state leaf.");
  const { value, isCanonical } = parseCanonical(data, 2_000, 3);
  const top = members(value, ["t", "v", "log", "size", "map_root", "keys", "prev", "time", "block"], fail);
  const numbers = [top.size, top.keys, top.time, top.prev ?? 0];
  const block = top.block === null ? null : members(top.block, ["chain_id", "number", "hash"], fail);
  if (block) numbers.push(block.chain_id, block.number);
  if (top.t !== "state" || top.v !== 1 || typeof top.log !== "string" || !numbers.every((number) => Number.isSafeInteger(number) && number >= 0) || !isCanonical()) fail();
  return { log: top.log, size: top.size, mapRoot: unb64u(top.map_root, 32), time: top.time, block };
}

/** A C2SP signed note: its text, and its signatures as name and bytes (four of the key's hash first). */
export function splitNote(note) {
  const fail = () => refuse("bad_note", "This is no signed note.");
  const gap = note.lastIndexOf("\n\n");
  if (utf8(note).length > 150_000 || !note.endsWith("\n") || gap < 0 || gap + 2 >= note.length || /[\u0000-\u0009\u000b-\u001f]/.test(note)) fail();
  const lines = note.slice(gap + 2, -1).split("\n");
  if (lines.length > 64) fail();
  const signatures = lines.map((line) => {
    const parts = line.split(" ");
    if (parts.length !== 3 || parts[0] !== "\u2014" || !isName(parts[1])) fail();
    const bytes = unb64(parts[2]);
    return bytes.length < 5 ? fail() : { name: parts[1], bytes };
  });
  return { text: note.slice(0, gap + 1), signatures };
}

/** Whether a key may have this name: no spaces, no plus. */
export const isName = (name) => name !== "" && !/[+\p{White_Space}]/u.test(name);
