// RFC 9162 trees: leaf hashes, and the checks of inclusion and consistency proofs.

import { byte, isSame, refuse } from "./verify-bytes.js";
import { sha256 } from "./verify-sha256.js";

const [LEAF, INNER] = [byte(0), byte(1)];
export const leafHash = (...data) => sha256(LEAF, ...data);
const inner = (left, right) => sha256(INNER, left, right);

// Integers are numbers in a bundle; shared test vectors go beyond 2^53 and are BigInts.
const units = (size) => (typeof size === "bigint" ? [0n, 1n, 2n] : [0, 1, 2]);

/** RFC 9162, section 2.1.3.2. Refuses with bad_inclusion_proof; index and size are both integers or both BigInts. */
export function checkInclusion(index, size, leaf, path, root) {
  const fail = () => refuse("bad_inclusion_proof", `The inclusion proof of leaf ${index} fails.`);
  if (leaf.length !== 32 || root.length !== 32 || path.some((hash) => hash.length !== 32)) refuse("bad_hash", "A hash has 32 bytes.");
  const [zero, one, two] = units(size);
  if (!(index >= 0 && index < size && BigInt(size) < 2n ** 63n)) fail();
  const half = (value) => (value - (value % two)) / two;
  let [fn, sn, current] = [index, size - one, leaf];
  for (const sibling of path) {
    if (sn === zero) fail();
    if (fn % two === one || fn === sn) {
      current = inner(sibling, current);
      while (fn % two === zero && fn !== zero) { fn = half(fn); sn = half(sn); }
    } else current = inner(current, sibling);
    fn = half(fn);
    sn = half(sn);
  }
  if (sn !== zero || !isSame(current, root)) fail();
}

/** RFC 9162, section 2.1.4.2. Refuses with bad_consistency_proof unless the second tree extends the first. */
export function checkConsistency(size1, size2, proof, root1, root2) {
  const fail = () => refuse("bad_consistency_proof", `The consistency proof from ${size1} to ${size2} fails.`);
  let [fn, sn] = [BigInt(size1) - 1n, BigInt(size2) - 1n];
  if (fn < -1n || fn > sn || sn >= 2n ** 63n - 1n) fail();
  if (fn === sn) return proof.length || !isSame(root1, root2) ? fail() : undefined;
  if (fn < 0n || !proof.length) fail();
  if (![root1, root2, ...proof].every((hash) => hash.length === 32)) refuse("bad_hash", "A hash has 32 bytes.");
  const isPower = ((fn + 1n) & fn) === 0n;
  const path = isPower ? proof : proof.slice(1);
  while (fn & 1n) { fn >>= 1n; sn >>= 1n; }
  let [first, second] = isPower ? [root1, root1] : [proof[0], proof[0]];
  for (const sibling of path) {
    if (sn === 0n) fail();
    if (fn & 1n || fn === sn) {
      [first, second] = [inner(sibling, first), inner(sibling, second)];
      while (!(fn & 1n) && fn) { fn >>= 1n; sn >>= 1n; }
    } else second = inner(second, sibling);
    fn >>= 1n;
    sn >>= 1n;
  }
  if (sn !== 0n || !isSame(first, root1) || !isSame(second, root2)) fail();
}
