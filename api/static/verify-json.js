// Strict JSON and RFC 8785 for the verifier: UTF-8, no member twice, depth at most 16, integers within 2^53 - 1.

import { refuse } from "./verify-bytes.js";

/** Whether a parsed value is a JSON object. */
export const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Decimal);

/** The value of a strict JSON text; isCanonical() tells whether the bytes are its RFC 8785 bytes. */
export function parseCanonical(bytes, bytesMax, depthMax = 16) {
  if (bytes.length > bytesMax) refuse("too_large", `The JSON text has more than ${bytesMax} bytes.`);
  let text;
  try { text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes); } catch { refuse("bad_json", "The JSON text is not UTF-8."); }
  const quick = quickly(text, depthMax);
  if (quick !== undefined) return { value: quick, isCanonical: () => isSorted(quick) };
  const reader = new Reader(text, depthMax);
  const value = reader.value(0);
  reader.space();
  if (reader.at !== text.length) refuse("bad_json", "Something follows the JSON value.");
  return { value, isCanonical: () => canonicalText(value) === text };
}

/** The value of a strict JSON text. */
export const parseJson = (bytes, bytesMax, depthMax) => parseCanonical(bytes, bytesMax, depthMax).value;

// What the browser writes again letter for letter, and holds plain integers alone, has one meaning: nothing strict is left to check.
// All else, also a \u escape, is left to the reader below.
function quickly(text, depthMax) {
  if (text.includes("\\u")) return undefined;
  let value;
  try { value = JSON.parse(text); } catch { return undefined; }
  return isPlain(value, depthMax) && JSON.stringify(value) === text ? value : undefined;
}

function isPlain(value, depth) {
  if (typeof value === "number") return Number.isSafeInteger(value);
  if (typeof value !== "object" || value === null) return true;
  if (depth === 0) return false;
  return Object.values(value).every((part) => isPlain(part, depth - 1));
}

const isSorted = (value) => typeof value !== "object" || value === null || ((Array.isArray(value) || ascends(Object.keys(value))) && Object.values(value).every(isSorted));

/** Whether texts stand in ascending order of UTF-16 code units, each once. */
export const ascends = (names) => names.every((name, at) => at === 0 || names[at - 1] < name);

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
    const members = Object.create(null);
    if (this.text[this.at] === "}") { this.at += 1; return members; }
    do {
      this.space();
      const name = this.string();
      if (name in members) refuse("duplicate_key", `The member ${name} stands twice.`);
      this.space();
      this.match(/:/y, "a colon");
      members[name] = this.value(depth);
    } while (this.next("}"));
    return members;
  }
}

/** The RFC 8785 text of a value made of strings, integers, true, false, null, arrays and objects. */
export function canonicalText(value) {
  if (isObject(value)) return `{${Object.keys(value).sort().map((name) => `${JSON.stringify(name)}:${canonicalText(value[name])}`).join(",")}}`;
  if (Array.isArray(value)) return `[${value.map(canonicalText).join(",")}]`;
  if (value instanceof Decimal) refuse("bad_number", "Only integers have a place here.");
  return JSON.stringify(value);
}
