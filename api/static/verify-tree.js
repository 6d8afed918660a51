// RFC 9162 trees over WebCrypto's SHA-256: hashes, and the checks of inclusion and consistency proofs.

import { isSame, latin, refuse } from "./verify-forms.js";

export function join(...parts) {
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  parts.reduce((at, part) => { whole.set(part, at); return at + part.length; }, 0);
  return whole;
}

export const sha256 = async (...parts) => new Uint8Array(await crypto.subtle.digest("SHA-256", join(...parts)));
export const byte = (value) => Uint8Array.of(value);
export const leafHash = (data) => sha256(byte(0), data);

/** Waits for all and gives the results in order; the first refusal in that order counts, whichever came first in time. */
export async function all(promises) {
  const settled = await Promise.allSettled(promises);
  const failed = settled.find((one) => one.status === "rejected");
  if (failed) throw failed.reason;
  return settled.map((one) => one.value);
}

/** Hashes of inner nodes (prefix 1 for trees, 3 for the map), each made once however many paths pass it. */
export class Nodes {
  constructor(prefix) { this.prefix = byte(prefix); this.made = new Map(); }

  hash(left, right) {
    const both = join(this.prefix, left, right);
    const name = latin(both);
    let made = this.made.get(name);
    if (made === undefined) this.made.set(name, made = crypto.subtle.digest("SHA-256", both).then((digest) => new Uint8Array(digest)));
    return made;
  }
}

/** RFC 9162, section 2.1.3.2. Refuses with bad_inclusion_proof; index and size are integers or BigInts. */
export async function checkInclusion(index, size, leaf, path, root, nodes = new Nodes(1)) {
  const fail = () => refuse("bad_inclusion_proof", `The inclusion proof of leaf ${index} fails.`);
  if (![leaf, root, ...path].every((hash) => hash.length === 32)) refuse("bad_hash", "A hash has 32 bytes.");
  if (!(index >= 0 && index < size && BigInt(size) < 2n ** 63n)) fail();
  let [fn, sn, current] = [BigInt(index), BigInt(size) - 1n, leaf];
  for (const sibling of path) {
    if (sn === 0n) fail();
    if (fn & 1n || fn === sn) {
      current = await nodes.hash(sibling, current);
      while (!(fn & 1n) && fn) { fn >>= 1n; sn >>= 1n; }
    } else current = await nodes.hash(current, sibling);
    fn >>= 1n;
    sn >>= 1n;
  }
  if (sn !== 0n || !isSame(current, root)) fail();
}

/** RFC 9162, section 2.1.4.2. Refuses with bad_consistency_proof unless the second tree extends the first. */
export async function checkConsistency(size1, size2, proof, root1, root2) {
  const fail = () => refuse("bad_consistency_proof", `The consistency proof from ${size1} to ${size2} fails.`);
  let [fn, sn] = [BigInt(size1) - 1n, BigInt(size2) - 1n];
  if (fn < -1n || fn > sn || sn >= 2n ** 63n - 1n) fail();
  if (fn === sn) return proof.length || !isSame(root1, root2) ? fail() : undefined;
  if (fn < 0n || !proof.length) fail();
  if (![root1, root2, ...proof].every((hash) => hash.length === 32)) refuse("bad_hash", "A hash has 32 bytes.");
  const nodes = new Nodes(1);
  const isPower = ((fn + 1n) & fn) === 0n;
  const path = isPower ? proof : proof.slice(1);
  while (fn & 1n) { fn >>= 1n; sn >>= 1n; }
  let [first, second] = isPower ? [root1, root1] : [proof[0], proof[0]];
  for (const sibling of path) {
    if (sn === 0n) fail();
    if (fn & 1n || fn === sn) {
      [first, second] = await Promise.all([nodes.hash(sibling, first), nodes.hash(sibling, second)]);
      while (!(fn & 1n) && fn) { fn >>= 1n; sn >>= 1n; }
    } else second = await nodes.hash(second, sibling);
    fn >>= 1n;
    sn >>= 1n;
  }
  if (sn !== 0n || !isSame(first, root1) || !isSame(second, root2)) fail();
}
