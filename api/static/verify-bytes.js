// Bytes and texts for the verifier: UTF-8, hex, strict base64url and base64, comparison. No dependencies.

export class Refused extends Error {
  /** A bundle that does not hold, with a stable code. */
  constructor(code, message) {
    super(message);
    this.name = "Refused";
    this.code = code;
  }
}

export const refuse = (code, message) => { throw new Refused(code, message); };

const encoder = new TextEncoder();
export const utf8 = (text) => encoder.encode(text);
export const byte = (value) => Uint8Array.of(value);
export const number64 = (value) => { const bytes = new Uint8Array(8); new DataView(bytes.buffer).setBigUint64(0, BigInt(value)); return bytes; };
export const number32 = (value) => { const bytes = new Uint8Array(4); new DataView(bytes.buffer).setUint32(0, value); return bytes; };

const SIXES = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const CODES = new Uint8Array(128).fill(64);
for (let at = 0; at < 64; at += 1) CODES[SIXES.charCodeAt(at)] = at;

export function b64u(bytes) {
  let [text, held, bits] = ["", 0, 0];
  for (const value of bytes) {
    held = (held << 8) | value;
    for (bits += 8; bits >= 6; bits -= 6) text += SIXES[(held >> (bits - 6)) & 63];
    held &= 63;
  }
  return bits ? text + SIXES[(held << (6 - bits)) & 63] : text;
}

/** The bytes of a base64url text: no padding, no stray bits, so that bytes have one spelling. */
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

export const b64 = (bytes) => btoa(String.fromCharCode(...bytes));

export function unb64(text) {
  let plain = "";
  try { plain = atob(text); } catch { refuse("bad_note", "A signature or root is base64."); }
  if (btoa(plain) !== text) refuse("bad_note", "A base64 text has another spelling.");
  return Uint8Array.from(plain, (letter) => letter.charCodeAt(0));
}

const PAIRS = Array.from({ length: 256 }, (_, value) => value.toString(16).padStart(2, "0"));

export function hex(bytes) {
  let text = "";
  for (const value of bytes) text += PAIRS[value];
  return text;
}

export const unhex = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));

export function isSame(left, right) {
  if (left.length !== right.length) return false;
  for (let at = 0; at < left.length; at += 1) if (left[at] !== right[at]) return false;
  return true;
}

/** Whether bytes stand before others in lexicographic order, or are the same. */
export function isUpTo(left, right) {
  const at = left.findIndex((value, place) => value !== right[place]);
  return at < 0 ? left.length <= right.length : left[at] < (right[at] ?? -1);
}
