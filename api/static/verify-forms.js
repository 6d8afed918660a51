// The strict forms of docs/proof-bundle.md: JSON, RFC 8785, base64url, JWS, messages, records, notes and GS1 identifiers.
// No dependencies; runs in browsers and in Node 20. Nothing here is verified yet: see verify.js.

export class Refused extends Error {
  /** A bundle that does not hold, with a stable code. */
  constructor(code, message) {
    super(message);
    this.name = "Refused";
    this.code = code;
  }
}

export const refuse = (code, message) => { throw new Refused(code, message); };
export const utf8 = (text) => new TextEncoder().encode(text);

export function latin(bytes) {
  if (bytes.length < 8192) return String.fromCharCode(...bytes);
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return text;
}

export function b64u(bytes) {
  return btoa(latin(bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

const SIXES = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

function binary(plain) {
  const bytes = new Uint8Array(plain.length);
  for (let at = 0; at < plain.length; at += 1) bytes[at] = plain.charCodeAt(at);
  return bytes;
}

const CODES = new Uint8Array(128).fill(64);
for (let at = 0; at < 64; at += 1) CODES[SIXES.charCodeAt(at)] = at;

export function unb64u(text, length) {
  const fail = () => refuse("bad_base64url", "This is not base64url without padding.");
  if (typeof text !== "string" || text.length % 4 === 1) fail();
  const bytes = new Uint8Array((text.length * 3) >> 2);
  let [held, bits, place] = [0, 0, 0];
  for (let at = 0; at < text.length; at += 1) {
    const letter = text.charCodeAt(at);
    const value = letter < 128 ? CODES[letter] : 64;
    if (value === 64) fail();
    held = (held << 6) | value;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes[place] = held >> bits;
    place += 1;
    held &= (1 << bits) - 1;
  }
  if (held !== 0) refuse("bad_base64url", "The last base64url character has stray bits.");
  if (length !== undefined && bytes.length !== length) refuse("bad_base64url", `Expected ${length} bytes, found ${bytes.length}.`);
  return bytes;
}

export function unb64(text) {
  let plain = "";
  try { plain = atob(text); } catch { refuse("bad_note", "A signature or root is base64."); }
  if (btoa(plain) !== text) refuse("bad_note", "A base64 text has another spelling.");
  return binary(plain);
}

const PAIRS = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

export function hex(bytes) {
  let text = "";
  for (const byte of bytes) text += PAIRS[byte];
  return text;
}

export const unhex = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));

/** Strict JSON: UTF-8, no duplicate member, depth at most 16, integers within 2^53 - 1. */
export function parseJson(bytes, bytesMax, depthMax = 16) {
  if (bytes.length > bytesMax) refuse("too_large", `The JSON text has more than ${bytesMax} bytes.`);
  let text;
  try { text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes); } catch { refuse("bad_json", "The JSON text is not UTF-8."); }
  const reader = new Reader(text, depthMax);
  const value = reader.value(0);
  reader.space();
  if (reader.at !== text.length) refuse("bad_json", "Something follows the JSON value.");
  return value;
}

const WORDS = [["true", true], ["false", false], ["null", null], ["NaN"], ["Infinity"], ["-Infinity"]];

/** A number with a fraction or an exponent, in its own digits: at most 38 of them, the exponent from -38 to 38. */
class Decimal {
  constructor(raw) {
    const [, whole, fraction = "", exponent = "0"] = /^-?([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?$/.exec(raw);
    const digits = (whole + fraction).replace(/^0+(?=.)/, "").length;
    if (raw.length > 46 || digits > 38 || Math.abs(Number(exponent) - fraction.length) > 38) refuse("bad_number", "A number has more digits or a larger exponent than is taken.");
    this.text = raw;
  }
}

class Reader {
  constructor(text, depthMax) { this.text = text; this.at = 0; this.depthMax = depthMax; }

  space() { while (" \t\n\r".includes(this.text[this.at] ?? "x")) this.at += 1; }

  match(pattern, what) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found === null) refuse("bad_json", `Not JSON: ${what} expected at character ${this.at}.`);
    this.at = pattern.lastIndex;
    return found[0];
  }

  value(depth) {
    this.space();
    const first = this.text[this.at];
    if (first === "{") return this.object(depth + 1);
    if (first === "[") return this.array(depth + 1);
    if (first === '"') return this.string();
    if (first !== undefined && "tfnNI-".includes(first)) {
      for (const [word, value] of WORDS) {
        if (this.text.startsWith(word, this.at)) { this.at += word.length; return value === undefined ? refuse("bad_number", `${word} is not a JSON number.`) : value; }
      }
    }
    return this.number();
  }

  string() {
    const raw = this.match(/"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y, "a string");
    const value = raw.includes("\\") ? JSON.parse(raw) : raw.slice(1, -1);
    if (!value.isWellFormed?.() && /\p{Surrogate}/u.test(value)) refuse("bad_json", "A string holds half a character.");
    return value;
  }

  number() {
    const raw = this.match(/-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y, "a value");
    if (!/^-?[0-9]+$/.test(raw)) return new Decimal(raw);
    const value = Number(raw);
    if (raw.length > 17 || !Number.isSafeInteger(value)) refuse("bad_number", "An integer lies beyond 2^53 - 1.");
    return value === 0 ? 0 : value;
  }

  open(depth) {
    if (depth > this.depthMax) refuse("too_deep", `The JSON nests deeper than ${this.depthMax}.`);
    this.at += 1;
    this.space();
  }

  next(close) {
    this.space();
    const letter = this.text[this.at];
    this.at += 1;
    if (letter !== "," && letter !== close) refuse("bad_json", `Not JSON: a comma or ${close} expected at character ${this.at - 1}.`);
    return letter === ",";
  }

  array(depth) {
    this.open(depth);
    const values = [];
    if (this.text[this.at] === "]") { this.at += 1; return values; }
    do values.push(this.value(depth)); while (this.next("]"));
    return values;
  }

  object(depth) {
    this.open(depth);
    const members = new Map();
    if (this.text[this.at] === "}") { this.at += 1; return members; }
    do {
      this.space();
      const name = this.string();
      if (members.has(name)) refuse("duplicate_key", `The member ${name} stands twice.`);
      this.space();
      this.match(/:/y, "a colon");
      members.set(name, this.value(depth));
    } while (this.next("}"));
    return members;
  }
}

/** The RFC 8785 text of a value made of strings, integers, true, false, null, arrays and Maps. */
export function canonicalText(value) {
  if (value instanceof Map) return `{${[...value.keys()].sort().map((name) => `${JSON.stringify(name)}:${canonicalText(value.get(name))}`).join(",")}}`;
  if (Array.isArray(value)) return `[${value.map(canonicalText).join(",")}]`;
  if (value instanceof Decimal) refuse("bad_number", "Only integers have a place here.");
  return JSON.stringify(value);
}

export function isSame(left, right) {
  if (left.length !== right.length) return false;
  for (let at = 0; at < left.length; at += 1) if (left[at] !== right[at]) return false;
  return true;
}

const bad = (why) => refuse("bad_bundle", `This is no proof bundle: ${why}.`);

function members(value, names, fail = bad) {
  if (!(value instanceof Map) || value.size !== names.length || !names.every((name) => value.has(name))) fail(`an object of ${names.join(", ")} belongs here`);
  return Object.fromEntries(value);
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
const ascends = (names) => names.every((name, at) => at === 0 || names[at - 1] < name);
const isBefore = (left, right) => left[0] < right[0] || (left[0] === right[0] && left[1] < right[1]);

/** The bundle in its RFC 8785 bytes; `mapKey(kind, id)` gives map keys. */
export async function readBundle(bytes, mapKey) {
  const value = parseJson(bytes, 32_000_000);
  if (!isSame(utf8(canonicalText(value)), bytes)) refuse("not_canonical", "A bundle is its RFC 8785 bytes; these are others.");
  const top = members(value, ["v", "log", "item", "size", "state", "checkpoint", "cosigners", "histories", "entries"]);
  if (top.v !== 1) bad("this verifier knows version 1");
  const hasBefore = top.log instanceof Map && top.log.has("before");
  const log = members(top.log, ["contract", "registry", "id", "chain_id", "genesis", ...(hasBefore ? ["before"] : [])]);
  const before = hasBefore ? list(log.before, 64, count) : [];
  if (hasBefore && !before.length) bad("an empty member is left out");
  const state = members(top.state, ["leaf", "path"]);
  const histories = await Promise.all(list(top.histories, 2_000, (part) => readHistory(part, mapKey)));
  const entries = list(top.entries, 20_000, readEntry);
  if (!ascends(histories.map((history) => history.hex))) bad("histories stand in the order of their keys, each once");
  if (!entries.every((entry, at) => at === 0 || entries[at - 1].index < entry.index)) bad("entries stand in log order, each once");
  return {
    contract: address(log.contract), registry: address(log.registry), logId: count(log.id), before, chainId: count(log.chain_id), genesis: text(log.genesis),
    item: text(top.item), size: count(top.size), stateLeaf: utf8(text(state.leaf)), statePath: hashes(state.path), checkpoint: text(top.checkpoint),
    cosigners: list(top.cosigners, 64, text),
    histories: new Map(histories.map((history) => [history.hex, history])),
    entries: new Map(entries.map((entry) => [entry.index, entry])),
  };
}

async function readHistory(value, mapKey) {
  const isNamed = value instanceof Map && value.has("name");
  const hasOther = value instanceof Map && value.has("other");
  const top = members(value, [isNamed ? "name" : "key", "steps", "siblings", ...(hasOther ? ["other"] : [])]);
  const name = isNamed ? pair(top.name).map(text) : null;
  const key = isNamed ? await mapKey(...name) : hash(top.key);
  const steps = list(top.steps, 20_000, (part) => pair(part).map(count));
  if (!steps.every((part, at) => at === 0 || isBefore(steps[at - 1], part)) || (steps.length && hasOther)) bad("steps stand in log order, each once; other is for absent keys");
  return { key, hex: hex(key), name, steps, siblings: hashes(top.siblings), other: hasOther ? pair(top.other).map(hash) : null };
}

function readEntry(value) {
  const optional = value instanceof Map ? ["disclosures", "items"].filter((name) => value.has(name)) : [];
  const top = members(value, ["index", "data", "path", ...optional]);
  const items = new Map();
  let last = -1;
  for (const part of list("items" in top ? top.items : [], 1_000, pair)) {
    const event = count(part[0]);
    if (event <= last) bad("events stand in order, each once");
    last = event;
    items.set(event, list(part[1], 20_000, readItemLeaf));
  }
  if (optional.some((name) => Array.isArray(top[name]) && top[name].length === 0)) bad("an empty member is left out");
  const data = utf8(text(top.data));
  return { index: count(top.index), data, path: hashes(top.path), disclosures: list("disclosures" in top ? top.disclosures : [], 20_000, text), items };
}

function readItemLeaf(value) {
  if (!Array.isArray(value) || value.length !== 4) bad("an item leaf is index, role, key and path");
  const role = count(value[1]);
  if (role < 1 || role > 12) bad("a role is 1 to 12");
  const key = hash(value[2]);
  return { index: count(value[0]), role, key, hex: hex(key), path: hashes(value[3]) };
}

/** message, record or state: what an entry's bytes are by their header. */
export function entryKind(data) {
  if (data[0] === 0x7b) return "state";
  let header;
  try { header = parseJson(unb64u(latin(data).split(".")[0]), 400, 2); } catch (error) { if (!(error instanceof Refused)) throw error; }
  const typ = header instanceof Map ? header.get("typ") : undefined;
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

export function splitJws(data, typ) {
  if (data.length > 60_000) refuse("too_large", "A JWT has at most 60,000 bytes.");
  const parts = latin(data).split(".");
  if (parts.length !== 3) refuse("bad_form", "A JWT is three base64url parts with dots between.");
  const [header, payload, signature] = readParts(parts);
  if (header instanceof Map && header.get("alg") !== "ES256") refuse("wrong_algorithm", "Only ES256 is taken.");
  const isExact = header instanceof Map && header.size === 3 && header.get("typ") === typ;
  if (!isExact || typeof header.get("kid") !== "string" || header.get("kid").length !== 43) refuse("bad_header", "A header is exactly alg, typ and kid.");
  return { kid: header.get("kid"), input: utf8(`${parts[0]}.${parts[1]}`), payload, signature };
}

const MESSAGE = ["v", "aud", "org", "iss", "iat", "seq", "prev", "_sd_alg", "events"];
const EVENT = ["type", "action", "eventTime", "eventTimeZoneOffset", "bizStep", "disposition", "errorDeclaration", "items", "_sd"];
const badMessage = (why) => refuse("bad_payload", `The payload is not a message: ${why}.`);

/** A message by form. `events` are the objects that stand in clear. */
export function readMessage(data) {
  const jws = splitJws(data, "epcis+sd-jwt");
  const payload = parseJson(jws.payload, 60_000);
  const isMessage = payload instanceof Map && MESSAGE.every((name) => payload.has(name)) && [...payload.keys()].every((name) => MESSAGE.includes(name) || name === "on_behalf_of");
  if (!isMessage || payload.get("v") !== 1 || payload.get("_sd_alg") !== "sha-256") badMessage("it has other members");
  const { aud, org, iss, iat, seq, prev, events, on_behalf_of: behalf } = Object.fromEntries(payload);
  if (![aud, org, iss].every((value) => typeof value === "string" && value)) badMessage("aud, org and iss are strings");
  if (![iat, seq].every((value) => Number.isSafeInteger(value) && value >= 0) || (prev === null) !== (seq === 0)) badMessage("iat, seq and prev do not fit");
  if (prev !== null) unb64u(prev, 32);
  if (!Array.isArray(events) || events.length < 1 || events.length > 500) badMessage("events is a list of 1 to 500");
  events.forEach(checkEvent);
  return { jws, aud, org, iss, iat, seq, prev, events, behalf: behalf ?? null };
}

function checkEvent(event) {
  const fits = event instanceof Map && event.has("items") && event.has("_sd") && [...event.keys()].every((name) => EVENT.includes(name));
  if (!fits) badMessage("an event holds only the members in clear, items and _sd");
  const items = members(event.get("items"), ["n", "root"], badMessage);
  if (!Number.isSafeInteger(items.n) || items.n < 0) badMessage("items has a count n");
  unb64u(items.root, 32);
  const digests = event.get("_sd");
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
  if (name === "tb:errorDeclaration" && !(member instanceof Map && ERROR_CLEAR.every((clear) => !member.has(clear)))) fail("It holds the rest of an error declaration.");
  return { name, value: member };
}

const COMMON = ["v", "t", "aud", "log", "org", "iat"];
const RECORD = {
  org: ["name", "roles", "account", "jwk", "version", "place"], key: ["kid", "jwk", "iss", "use", "scope"], end: ["kid", "last", "seq", "reason"],
  master: ["subject", "fact", "value"], equivocation: ["kid", "iss", "seq", "ids"], refusal: ["message", "kid", "iss", "seq", "prev", "code"],
  erasure: ["leaf", "event", "names", "owner"], audit: ["row"],
};

/** A record by form; its payload is its RFC 8785 bytes. */
export function readRecord(data) {
  const jws = splitJws(data, "tb-record+jwt");
  const payload = parseJson(jws.payload, 60_000);
  const fail = (why) => refuse("bad_record", `A record has another form: ${why}.`);
  if (!(payload instanceof Map) || !Object.hasOwn(RECORD, payload.get("t"))) fail("t is unknown");
  const fact = members(payload, [...COMMON, ...RECORD[payload.get("t")]], fail);
  if (fact.v !== 1 || !Number.isSafeInteger(fact.iat) || ![fact.aud, fact.log, fact.org].every((value) => typeof value === "string" && value)) fail("v, iat, aud, log or org");
  if (!isSame(utf8(canonicalText(payload)), jws.payload)) fail("its payload is its RFC 8785 bytes");
  if (fact.t === "org") checkOrganisation(fact, fail);
  if (fact.t === "key" && !(typeof fact.iss === "string" && ["device", "gateway", "receipt", "mirror"].includes(fact.use))) fail("use or iss");
  if (fact.t === "end" && ((fact.last === null) !== (fact.seq === -1) || !Number.isSafeInteger(fact.seq))) fail("last and seq");
  if (fact.t === "erasure" && !Array.isArray(fact.owner?.get?.("items"))) fail("owner");
  return { jws, fact };
}

function checkOrganisation(fact, fail) {
  const place = members(fact.place, ["chain_id", "number", "registry"], fail);
  const isRight = Number.isSafeInteger(fact.roles) && fact.roles > 0 && fact.roles < 256 && Number.isSafeInteger(fact.version) && fact.version >= 0;
  if (!isRight || !/^0x[0-9a-f]{40}$/.test(fact.account) || !/^0x[0-9a-f]{40}$/.test(place.registry)) fail("roles, version, account or place");
}

export function readStateLeaf(data) {
  const fail = () => refuse("bad_state_leaf", "This is no state leaf.");
  const value = parseJson(data, 2_000, 3);
  const top = members(value, ["t", "v", "log", "size", "map_root", "keys", "prev", "time", "block"], fail);
  const numbers = [top.size, top.keys, top.time, top.prev ?? 0];
  const block = top.block === null ? null : members(top.block, ["chain_id", "number", "hash"], fail);
  if (block) numbers.push(block.chain_id, block.number);
  if (top.t !== "state" || top.v !== 1 || typeof top.log !== "string" || !numbers.every((number) => Number.isSafeInteger(number) && number >= 0) || !isSame(utf8(canonicalText(value)), data)) fail();
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

const CHECKED = { "00": 18, "01": 14, 253: 13, 255: 13, 402: 17, 414: 13, 415: 13, 417: 13, 8003: 14, 8006: 14, 8017: 18, 8018: 18 };
const FORMS = {
  "00": /^\d{18}$/, "01": /^\d{14}$/, 253: /^\d{13}.{0,17}$/, 255: /^\d{13}\d{0,12}$/, 401: /^.{1,30}$/, 402: /^\d{17}$/, 414: /^\d{13}$/, 415: /^\d{13}$/, 417: /^\d{13}$/,
  8003: /^0\d{13}.{0,16}$/, 8004: /^.{1,30}$/, 8006: /^\d{18}$/, 8010: /^.{1,30}$/, 8013: /^.{1,25}$/, 8017: /^\d{18}$/, 8018: /^\d{18}$/,
};
const FINEST = { "01": ["21", "235", "10"], 414: ["254"], 415: ["8020"], 8006: ["21", "10"], 8010: ["8011"] };

/** Refuse an item that is not named by its canonical identifier; give the canonical id of its GTIN, or null. */
export function classOf(item) {
  const fail = () => refuse("bad_bundle", "The item is not named by its canonical identifier.");
  const found = /^https:\/\/id\.gs1\.org\/([0-9]+)\/([^/]+)(?:\/([0-9]+)\/([^/]+))?$/.exec(item);
  if (found === null && isGs1Elsewhere(item)) fail();
  if (found === null) return /^[A-Za-z][A-Za-z0-9+.-]*:[^\s<>"{}|\\^`]+$/.test(item) && !/^(urn:epc:|https?:\/\/id\.gs1\.)/i.test(item) ? null : fail();
  const [, ai, spelled, name, detail] = found;
  const value = decoded(spelled, fail);
  if (!Object.hasOwn(FORMS, ai) || !FORMS[ai].test(value)) fail();
  if (CHECKED[ai] && !hasCheckDigit(value.slice(0, CHECKED[ai]))) fail();
  if (name !== undefined && (!FINEST[ai]?.includes(name) || !decoded(detail, fail))) fail();
  if (ai === "01" && name === undefined) return null;
  return ai === "01" || ai === "8006" ? `https://id.gs1.org/01/${value.slice(0, 14)}` : null;
}

function isGs1Elsewhere(item) {
  const [, path] = /^https?:\/\/[^/?#]*([^?#]*)/i.exec(item) ?? [];
  const segments = (path ?? "").replace(/\/$/, "").split("/");
  return segments.some((ai, at) => (segments.length - at) % 2 === 0 && Object.hasOwn(FORMS, ai) && FORMS[ai].test(segments[at + 1] ?? ""));
}

function decoded(spelled, fail) {
  let plain = "";
  try { plain = decodeURIComponent(spelled); } catch { fail(); }
  const again = encodeURIComponent(plain).replace(/[!'()*]/g, (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`);
  return again === spelled ? plain : fail();
}

function hasCheckDigit(digits) {
  const sum = [...digits].reverse().reduce((total, digit, at) => total + Number(digit) * (at % 2 ? 3 : 1), 0);
  return sum % 10 === 0;
}
