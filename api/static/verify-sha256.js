// SHA-256 (FIPS 180-4), in step: a bundle takes thousands of hashes of a hundred bytes, and waiting for WebCrypto costs more than each of them.

const K = Int32Array.from(
  ("428a2f98 71374491 b5c0fbcf e9b5dba5 3956c25b 59f111f1 923f82a4 ab1c5ed5 d807aa98 12835b01 243185be 550c7dc3 72be5d74 80deb1fe 9bdc06a7 c19bf174 " +
    "e49b69c1 efbe4786 0fc19dc6 240ca1cc 2de92c6f 4a7484aa 5cb0a9dc 76f988da 983e5152 a831c66d b00327c8 bf597fc7 c6e00bf3 d5a79147 06ca6351 14292967 " +
    "27b70a85 2e1b2138 4d2c6dfc 53380d13 650a7354 766a0abb 81c2c92e 92722c85 a2bfe8a1 a81a664b c24b8b70 c76c51a3 d192e819 d6990624 f40e3585 106aa070 " +
    "19a4c116 1e376c08 2748774c 34b0bcb5 391c0cb3 4ed8aa4a 5b9cca4f 682e6ff3 748f82ee 78a5636f 84c87814 8cc70208 90befffa a4506ceb bef9a3f7 c67178f2")
    .split(" "), (word) => parseInt(word, 16));
const START = Int32Array.of(0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19);
const SCHEDULE = new Int32Array(64);
const STATE = new Int32Array(8);
let scratch = new Uint8Array(4096);
let view = new DataView(scratch.buffer);

/** The 32 bytes of SHA-256 over the parts, one after the other. */
export function sha256(...parts) {
  let length = 0;
  for (const part of parts) length += part.length;
  const padded = ((length + 72) >> 6) << 6;
  if (padded > scratch.length) {
    scratch = new Uint8Array(2 * padded);
    view = new DataView(scratch.buffer);
  }
  let end = 0;
  for (const part of parts) { scratch.set(part, end); end += part.length; }
  scratch[length] = 0x80;
  scratch.fill(0, length + 1, padded);
  view.setUint32(padded - 8, Math.floor(length / 0x20000000));
  view.setUint32(padded - 4, (length << 3) >>> 0);
  STATE.set(START);
  for (let block = 0; block < padded; block += 64) compress(block);
  const digest = new Uint8Array(32);
  for (let at = 0; at < 32; at += 1) digest[at] = STATE[at >> 2] >>> (24 - 8 * (at & 3));
  return digest;
}

function compress(block) {
  for (let t = 0; t < 16; t += 1) SCHEDULE[t] = view.getInt32(block + 4 * t);
  for (let t = 16; t < 64; t += 1) {
    const x = SCHEDULE[t - 15], y = SCHEDULE[t - 2];
    const low = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
    const high = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
    SCHEDULE[t] = high + SCHEDULE[t - 7] + low + SCHEDULE[t - 16];
  }
  let a = STATE[0], b = STATE[1], c = STATE[2], d = STATE[3], e = STATE[4], f = STATE[5], g = STATE[6], h = STATE[7];
  for (let t = 0; t < 64; t += 1) {
    const right = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
    const first = (h + right + ((e & f) ^ (~e & g)) + K[t] + SCHEDULE[t]) | 0;
    const left = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
    const second = (left + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g; g = f; f = e; e = (d + first) | 0; d = c; c = b; b = a; a = (first + second) | 0;
  }
  STATE[0] += a; STATE[1] += b; STATE[2] += c; STATE[3] += d; STATE[4] += e; STATE[5] += f; STATE[6] += g; STATE[7] += h;
}
