// Histories: each against the item map, which of them the item needs, and that nothing else stands in the bundle.

import { b64u, byte, isSame, number32, number64, refuse, unb64u } from "./verify-bytes.js";
import { mapKey } from "./verify-forms.js";
import { inOrder } from "./verify-log.js";
import { sha256 } from "./verify-sha256.js";

const UP_MAX = 5;
const [LOT, TRANSFORMATION] = [4, 5];
const INPUTS = [2, 3, 5];
const [VALUE, LEAF, INNER, STEP] = [4, 2, 3, 5].map(byte);

function recordKeys(fact) {
  const ids = (...names) => names.map(([kind, id]) => b64u(mapKey(kind, id)));
  switch (fact.t) {
    case "key": case "equivocation": return ids(["key", fact.kid], ["org", fact.org], ["device", fact.iss]);
    case "end": return ids(["key", fact.kid], ["org", fact.org]);
    case "refusal": return ids(["device", fact.iss]);
    case "org": return ids(["org", fact.org]);
    case "master": return ids(["org", fact.org], ["item", fact.subject]);
    case "erasure": return fact.owner.items.map((key) => b64u(unb64u(key, 32)));
    default: return [];
  }
}

/** Each step of a history names its key, and their head is what the map holds. */
export function checkHistory(log, history, mapRoot) {
  let head = new Uint8Array(32);
  for (const [index, event] of history.steps) {
    const entry = log.bundle.entries.get(index) ?? refuse("missing_entry", "A step of a history has no entry here.");
    const record = log.records.get(index);
    const names = record ? event === 0 && recordKeys(record.fact).includes(history.id) : (entry.items.get(event) ?? []).some((leaf) => leaf.id === history.id);
    if (!names) refuse("foreign_step", "An entry does not name the key it is said to step.");
    head = sha256(STEP, head, number64(index), number32(event), entry.hash);
  }
  const value = history.steps.length ? sha256(VALUE, number64(history.steps.length), head) : null;
  checkMap(history, value, mapRoot);
}

const bit = (key, depth) => (key[depth >> 3] >> (7 - (depth & 7))) & 1;
const isEmpty = (node) => node.every((value) => value === 0);

function checkMap(history, value, root) {
  const fail = () => refuse("bad_map_proof", "The proof of a history's place in the map fails.");
  const { key, siblings, other } = history;
  const depth = siblings.length;
  if (depth > 256) fail();
  let current = new Uint8Array(32);
  if (value) current = sha256(LEAF, key, value);
  else if (other) {
    if (isSame(other[0], key)) fail();
    for (let level = 0; level < depth; level += 1) if (bit(key, level) !== bit(other[0], level)) fail();
    current = sha256(LEAF, ...other);
  }
  if (isEmpty(current) && depth && isEmpty(siblings[depth - 1])) fail();
  for (let level = depth - 1; level >= 0; level -= 1) {
    current = bit(key, level) ? sha256(INNER, siblings[level], current) : sha256(INNER, current, siblings[level]);
  }
  if (!isSame(current, root)) fail();
}

/** All that stands in the bundle is needed, so that nothing can be taken out of it or put into it unseen. */
export function checkNothingMore(log, required) {
  const kids = new Set([...log.messages.values()].map(({ jws }) => b64u(mapKey("key", jws.kid))));
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
      if (!keys || (first >= 0 && leaves.slice(first + 1).some((leaf) => !keys.has(leaf.id)))) refuse("bad_item_leaves", "An item leaf is of no history here.");
    }
  }
}

/** The keys of the item's whole history: itself, its class and lot, containers and inputs, and theirs in turn. */
export function closure(log, product) {
  const open = [log.bundle.item, ...(product ? [product] : [])].map((id) => b64u(mapKey("item", id)));
  const required = new Set();
  while (open.length) {
    const key = open.pop();
    if (required.has(key)) continue;
    required.add(key);
    for (const [index, event] of log.bundle.histories.get(key)?.steps ?? []) {
      const leaves = log.bundle.entries.get(index).items.get(event) ?? [];
      const others = leaves.filter((leaf) => leaf.id !== key);
      const roles = leaves.filter((leaf) => leaf.id === key).map((leaf) => leaf.role);
      // Container, inputs and lot of a thing; inputs alone of a lot and of a transformation.
      if (roles.some((role) => role > UP_MAX)) open.push(...others.filter((leaf) => leaf.role <= UP_MAX).map((leaf) => leaf.id));
      else if (roles.includes(LOT) || roles.includes(TRANSFORMATION)) open.push(...others.filter((leaf) => INPUTS.includes(leaf.role)).map((leaf) => leaf.id));
    }
  }
  return required;
}
