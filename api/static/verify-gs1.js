// Canonical GS1 identifiers, as far as the item of a bundle needs them.

import { refuse } from "./verify-bytes.js";

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
