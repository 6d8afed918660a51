"""A third verifier, written from docs/proof-bundle.md alone: the page is enough when this one judges like the others.

Of the project it imports nothing; it is short rather than quick, and tells a refusal by ``Refused`` without codes.
"""

import base64
import re
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.vectors.third_forms import (
    Jws,
    Refused,
    ascending,
    b64,
    count,
    hashes,
    included,
    listed,
    map_key,
    need,
    nesting,
    product_of,
    read_disclosure,
    read_entry,
    read_history,
    read_json,
    read_message,
    read_record,
    read_verifier,
    record_keys,
    sha,
    shape,
    text,
    thumbprint,
    unb64,
)

Ask = Callable[[str, str], bytes]


class Verifier:
    """One check of one bundle; ``run`` does the steps of the document in order."""

    def __init__(self, data: bytes, ask: Ask, chain: tuple[int, str], contract: str, mirrors: tuple[str, ...]) -> None:
        self.ask, self.chain, self.contract, self.mirrors = ask, chain, contract, mirrors
        need(nesting(data) <= 16, "too deep")
        names = ("v", "log", "item", "size", "state", "checkpoint", "cosigners", "histories", "entries")
        top = shape(read_json(data, 32_000_000, is_exact=True), names)
        need(top["v"] == 1 and type(top["v"]) is int, "version")
        self.log = shape(top["log"], ("contract", "registry", "id", "chain_id", "genesis"), ("before",))
        need(all(re.fullmatch("0x[0-9a-f]{40}", text(self.log[n])) for n in ("contract", "registry")), "an address")
        self.before = [count(number) for number in listed(self.log.get("before", []), 64)]
        need(self.before or "before" not in self.log, "an empty member")
        self.state = shape(top["state"], ("leaf", "path"))
        self.item, self.size, self.note = text(top["item"]), count(top["size"]), text(top["checkpoint"])
        self.cosigners = [text(one) for one in listed(top["cosigners"], 64)]
        self.histories = {h["key"]: h for h in map(read_history, listed(top["histories"], 2_000))}
        self.entries = {e["index"]: e for e in map(read_entry, listed(top["entries"], 20_000))}
        ascending([read_history(h)["key"] for h in top["histories"]])
        ascending([entry["index"] for entry in top["entries"]])
        self.own = map_key("item", self.item)
        self.messages: dict[int, dict[str, Any]] = {}
        self.records: dict[int, dict[str, Any]] = {}
        self.rests: dict[int, set[int]] = {}

    def run(self) -> dict[str, Any]:
        need(self.own in self.histories and self.histories[self.own]["name"], "the item's own history")
        self.product = product_of(self.item)
        self.check_place()
        for entry in self.entries.values():
            self.check_entry(entry)
        self.check_signers()
        for history in self.histories.values():
            self.check_history(history)
        suspects = {index for index in self.messages if self.is_suspect(index)}
        required = self.whole()
        self.check_nothing_more(required)
        covered = required & set(self.histories)
        steps = [step for step in self.histories[self.own]["steps"] if step[0] in self.messages]
        coverage = "whole" if covered == required else "partial" if len(covered) > 1 else "own"
        is_cosigned = coverage == "whole" and set(self.cosigners) & set(self.mirrors)
        return {
            "events": len(steps), "suspect": sum(index in suspects for index, _ in steps), "coverage": coverage,
            "uncovered": len(required - covered), "completeness": "cosigned" if is_cosigned else "operator",
            "other_logs": self.others, "unnamed": sum(self.histories[key]["name"] is None for key in covered),
        }  # fmt: skip

    def check_place(self) -> None:
        contract, registry, number = self.log["contract"], self.log["registry"], f"{count(self.log['id']):064x}"
        need(contract == self.contract and (self.log["chain_id"], self.log["genesis"]) == self.chain, "place")
        log = self.ask(contract, f"0x4bc43391{number}")
        self.root = self.ask(contract, f"0xdfe4bf36{number}{self.size:064x}")
        logs, named = self.ask(contract, "0x28874705"), self.ask(contract, "0xabf0e71f")
        need([len(one) for one in (log, self.root, logs, named)] == [224, 32, 32, 32], "answers")
        self.others = int.from_bytes(logs) - 1 - len(self.before)
        leaf = self.state["leaf"]
        state = shape(read_json(text(leaf).encode(), 2_000, is_exact=True),
                      ("t", "v", "log", "size", "map_root", "keys", "prev", "time", "block"))  # fmt: skip
        need((state["t"], state["v"], state["size"]) == ("state", 1, self.size) and self.size > 0, "state leaf")
        self.origin, self.map_root = text(state["log"]), unb64(state["map_root"], 32)
        need(sha(self.origin.encode()) == log[:32] and any(self.root), "origin or root")
        need(named[12:].hex() == registry[2:], "registry")
        after = log
        for predecessor in self.before:
            need(int.from_bytes(after[64:96]) == predecessor, "predecessor")
            after = self.ask(contract, f"0x4bc43391{predecessor:064x}")
            need(len(after) == 224, "answers")
        need(after[64:96] == b"\xff" * 32, "predecessors left out")
        included(self.size - 1, self.size, sha(b"\0", leaf.encode()), hashes(self.state["path"]), self.root)
        self.check_note(log[32:64])

    def check_note(self, log_key: bytes) -> None:
        ascending([one.encode() for one in self.cosigners])
        signers = [(self.origin, b"\1" + log_key), *(read_verifier(one) for one in self.cosigners)]
        body, gap, lines = self.note.rpartition("\n\n")
        root = base64.b64encode(self.root).decode()
        need(gap and body + "\n" == f"{self.origin}\n{self.size}\n{root}\n" and lines.endswith("\n"), "note")
        need(len(lines[:-1].split("\n")) == len(signers) == len({name for name, _ in signers}), "signatures")
        for line, (name, key) in zip(lines[:-1].split("\n"), signers, strict=True):
            dash, _, rest = line.partition(" ")
            spelled, _, encoded = rest.partition(" ")
            try:
                raw = base64.b64decode(encoded, validate=True)
            except ValueError as error:
                raise Refused("base64") from error
            need(dash == "\u2014" and spelled == name and base64.b64encode(raw).decode() == encoded, "signature line")
            need(raw[:4] == sha(name.encode(), b"\n", key)[:4], "key hash")
            signed, signature = (body + "\n").encode(), raw[4:]
            if key[0] == 4:
                time, signature = int.from_bytes(raw[4:12]), raw[12:]
                need(time < 2**63, "time")
                signed = f"cosignature/v1\ntime {time}\n".encode() + signed
            try:
                ed25519.Ed25519PublicKey.from_public_bytes(key[1:]).verify(signature, signed)
            except (InvalidSignature, ValueError) as error:
                raise Refused("signature") from error

    def check_entry(self, entry: dict[str, Any]) -> None:
        index, data = entry["index"], entry["data"]
        included(index, self.size, sha(b"\0", data.encode()), entry["path"], self.root)
        jws = Jws(data)
        if jws.typ == "tb-record+jwt":
            need(not entry["disclosures"] and not entry["items"], "a record discloses nothing")
            self.records[index] = read_record(jws) | {"jws": jws}
            need(self.records[index]["log"] == self.origin, "another log")
            return
        message = read_message(jws)
        self.messages[index] = message | {"jws": jws, "shown": set()}
        places = {d: (number, at) for number, e in enumerate(message["events"]) for at, d in enumerate(e["_sd"])}
        digests = [b64(sha(one.encode())) for one in entry["disclosures"]]
        need(all(digest in places for digest in digests), "a strange disclosure")
        ascending([places[digest] for digest in digests])
        named = [(places[d][0], read_disclosure(one)) for d, one in zip(digests, entry["disclosures"], strict=True)]
        need(len(set(named)) == len(named), "one member twice")
        self.messages[index]["shown"] = {number for number, _ in named}
        for number, leaves in entry["items"].items():
            need(number < len(message["events"]), "no such event")
            total, root = message["events"][number]["items"]["n"], unb64(message["events"][number]["items"]["root"])
            ascending([leaf[0] for leaf in leaves])
            for at, role, key, path in leaves:
                included(at, total, sha(b"\0", bytes([role]), key), path, root)
            needed = next((at + 1 for at, leaf in enumerate(leaves) if leaf[1] > 5), total)
            need([leaf[0] for leaf in leaves[:needed]] == list(range(needed)), "an up-link is left out")

    def check_signers(self) -> None:
        known: dict[str, list[int]] = {}
        is_here = {
            i: r["place"]["registry"] == self.log["registry"] for i, r in self.records.items() if r["t"] == "org"
        }
        said = {i: [self.records[i][name] for name in ("org", "jwk", "roles", "account")] for i in is_here}
        for index, here in sorted(is_here.items()):
            fact, kid = self.records[index], thumbprint(self.records[index]["jwk"])
            need(all(is_here[other] != here for other in known.setdefault(kid, [])), "one key in two org records")
            known[kid].append(index)
            if not here:
                later = [at for at in sorted(is_here) if at > index and is_here[at] and said[at] == said[index]]
                need(later, "an org record of another registry is not confirmed")
                self.rests[index] = {later[0]}
                continue
            key, account = map_key("org", fact["org"]).hex(), bytes.fromhex(fact["account"][2:])
            answer = self.ask(self.log["registry"], f"0x38a5b111{key}{fact['version']:064x}")
            words = [bytes.fromhex(f"{number:064x}") for number in (fact["roles"], count(fact["place"]["number"]))]
            need(len(answer) == 128 and answer[:32] == unb64(kid) and answer[44:64] == account, "organisation")
            need(answer[64:] == b"".join(words) and fact["place"]["chain_id"] == self.chain[0], "organisation")
        for index, fact in sorted(self.records.items()):
            signers = known.get(fact["jws"].kid, [])
            need(signers, "no org record of the signer")
            at = max((one for one in signers if one <= index), default=-1)
            need(at >= 0 and (at < index or fact["t"] == "org"), "signer comes later")
            signer = self.records[at]
            fact["jws"].check(signer["jwk"])
            by_operator = fact["t"] in ("org", "equivocation", "refusal", "erasure", "audit")
            need(signer["roles"] & 1 if by_operator else signer["org"] == fact["org"], "another signer")
            self.rests.setdefault(index, set()).add(at)

    def check_history(self, history: dict[str, Any]) -> None:
        key, head, steps = history["key"], bytes(32), history["steps"]
        for index, event in steps:
            need(index in self.entries, "no entry of a step")
            named = [leaf[2] for leaf in self.entries[index]["items"].get(event, [])]
            if index in self.records:
                named = [*record_keys(self.records[index])] if event == 0 else []
            need(key in named, "a foreign step")
            data = sha(b"\0", self.entries[index]["data"].encode())
            head = sha(b"\5", head, index.to_bytes(8), event.to_bytes(4), data)
        bits, node = f"{int.from_bytes(key):0256b}", bytes(32)
        if steps:
            node = sha(b"\2", key, sha(b"\4", len(steps).to_bytes(8), head))
        elif history["other"]:
            other, depth = history["other"], len(history["siblings"])
            need(other[0] != key and f"{int.from_bytes(other[0]):0256b}"[:depth] == bits[:depth], "another place")
            node = sha(b"\2", *other)
        need(any(node) or not history["siblings"] or any(history["siblings"][-1]), "an empty pair")
        for bit, sibling in reversed([*zip(bits, history["siblings"], strict=False)]):
            node = sha(b"\3", sibling, node) if bit == "1" else sha(b"\3", node, sibling)
        need(len(history["siblings"]) <= 256 and node == self.map_root, "not in the map")

    def is_suspect(self, index: int) -> bool:
        message = self.messages[index]
        history = self.histories.get(map_key("key", message["jws"].kid))
        need(history and history["name"], "no history of a signing key")
        facts = [(at, self.records[at]) for at, _ in history["steps"] if at in self.records]  # type: ignore[index]
        keys = [(at, fact) for at, fact in facts if fact["t"] == "key"]
        need(len(keys) == 1 and keys[0][0] < index, "no key record before")
        fact = keys[0][1]
        need(all(fact[name] == message[name] for name in ("org", "iss", "aud")), "another device")
        need(fact["use"] in ("device", "gateway"), "another use")
        message["jws"].check(fact["jwk"])
        ends = [(at, fact) for at, fact in facts if fact["t"] == "end"]
        need(all(message["seq"] <= fact["seq"] or index < at for at, fact in ends), "after the end")
        ident = b64(sha(message["jws"].input))
        return any(fact["t"] == "equivocation" and message["seq"] >= fact["seq"] for _, fact in facts) or any(
            message["seq"] > fact["seq"] or (index > at and ident != fact["last"]) for at, fact in ends
        )

    def whole(self) -> set[bytes]:
        waiting, required = [self.own] + ([map_key("item", self.product)] if self.product else []), set()
        while waiting:
            key = waiting.pop()
            if key in required:
                continue
            required.add(key)
            for index, event in self.histories.get(key, {"steps": []})["steps"]:
                leaves = self.entries[index]["items"].get(event, [])
                roles = {role for _, role, named, _ in leaves if named == key}
                wanted = {1, 2, 3, 4, 5} if max(roles, default=0) > 5 else {2, 3, 5} if roles & {4, 5} else set()
                waiting += [named for _, role, named, _ in leaves if role in wanted and named != key]
        return required

    def check_nothing_more(self, required: set[bytes]) -> None:
        kids = {map_key("key", message["jws"].kid) for message in self.messages.values()}
        need(all(k in required or (k in kids and h["name"]) for k, h in self.histories.items()), "a stray history")
        used = waiting = {index for history in self.histories.values() for index, _ in history["steps"]}
        while waiting:
            waiting = {at for index in waiting for at in self.rests.get(index, ())} - used
            used = used | waiting
        need(used == set(self.entries), "a stray entry")
        for index, message in self.messages.items():
            named: dict[int, set[bytes]] = {}
            for key in required & set(self.histories):
                for at, event in self.histories[key]["steps"]:
                    if at == index:
                        named.setdefault(event, set()).add(key)
            need(message["shown"] | set(self.entries[index]["items"]) <= set(named), "a stray disclosure or leaf")
            for event, leaves in self.entries[index]["items"].items():
                first = next((at for at, leaf in enumerate(leaves) if leaf[1] > 5), len(leaves))
                need(all(leaf[2] in named[event] for leaf in leaves[first + 1 :]), "a stray leaf")
