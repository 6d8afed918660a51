// SHA-256 through the browser's module: one JSON list of base64 parts a line, the digest in hex out, a line each.
import { createInterface } from "node:readline";
import { b64u, hex, unb64u } from "../../api/static/verify-bytes.js";
import { sha256 } from "../../api/static/verify-sha256.js";

for await (const line of createInterface({ input: process.stdin })) {
  const parts = JSON.parse(line).map((text) => new Uint8Array(Buffer.from(text, "base64")));
  const digest = sha256(...parts);
  console.log(b64u(unb64u(b64u(digest), 32)) === Buffer.from(digest).toString("base64url") ? hex(digest) : "base64url differs");
}
