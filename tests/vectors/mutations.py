"""Forged proof bundles, made deterministically out of good ones: every kind of change that a forger could try.

Each mutant has a name that tells what was done and where. ``refused`` must all be refused; ``weaker`` are the changes
that the format allows, since the report then says that it shows less.
"""

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

from core.canonical import b64u, canonical_bytes, sha256

Bundle = dict[str, Any]
Mutant = tuple[str, bytes]
Path = tuple[str | int, ...]

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# A disclosure of a stranger: ["a","b",1].
STRANGE = "WyJhIiwiYiIsMV0"
_TYPES: tuple[Any, ...] = (None, True, "", "x", 0, 7, [], {}, [[]], {"a": 1})


def refused(bundle: Bundle, other: Bundle, *, seed: int, per_kind: int) -> Iterator[Mutant]:
    """Mutants of a good bundle; ``other`` is a good bundle whose parts are put into it.

    Args:
        per_kind: how many of each kind of change at most, chosen by ``seed``.
    """
    chance = random.Random(seed)
    good = canonical_bytes(bundle)
    seen = {good}
    for kind, mutants in (*_structural(bundle), *_bytewise(good, chance), *_semantic(bundle, other)):
        most = 1 if " instead of " in kind else per_kind
        chosen = mutants if len(mutants) <= most else chance.sample(mutants, most)
        for name, make in chosen:
            data = make()
            if data not in seen:
                seen.add(data)
                yield f"{kind}: {name}", data


def weaker(bundle: Bundle) -> Iterator[Mutant]:
    """What may be left out, each time with a report that says so: disclosures, names, related histories, cosigners."""
    for at, entry in enumerate(bundle["entries"]):
        for place in range(len(entry.get("disclosures", []))):
            changed = copy.deepcopy(bundle)
            texts = changed["entries"][at]["disclosures"]
            del texts[place]
            if not texts:
                del changed["entries"][at]["disclosures"]
            yield f"disclosure {at}/{place} withheld", canonical_bytes(changed)
    for at, history in enumerate(bundle["histories"]):
        kind, identifier = history["name"]
        if kind == "item" and identifier != bundle["item"]:
            changed = copy.deepcopy(bundle)
            del changed["histories"][at]["name"]
            changed["histories"][at]["key"] = b64u(sha256(f"tracebond/{kind}/1".encode() + b"\0" + identifier.encode()))
            yield f"name of {identifier} withheld", canonical_bytes(changed)
    for at in range(len(bundle["cosigners"])):
        changed = copy.deepcopy(bundle)
        del changed["cosigners"][at]
        text, _, lines = changed["checkpoint"].rpartition("\n\n")
        kept = [line for number, line in enumerate(lines.splitlines()) if number != at + 1]
        changed["checkpoint"] = text + "\n\n" + "".join(line + "\n" for line in kept)
        yield f"cosigner {at} left out", canonical_bytes(changed)


def omitted(bundle: Bundle) -> Iterator[Mutant]:
    """Histories of related things left out, alone or with their entries: refused, or told as not covered."""
    for at, history in enumerate(bundle["histories"]):
        if _is_related(bundle, history):
            for what, edit in (("history", _drop_one), ("history and entries", _drop_history)):
                changed = copy.deepcopy(bundle)
                edit(changed, at)
                yield f"{what} of {history['name'][1]} left out", canonical_bytes(changed)


def _is_related(bundle: Bundle, history: dict[str, Any]) -> bool:
    return bool(history["name"][0] == "item" and history["name"][1] != bundle["item"])


Change = tuple[str, Callable[[], bytes]]


def _at(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part]
    return value


def _with(bundle: Bundle, path: Path, edit: Callable[[Any, Any], Any]) -> Callable[[], bytes]:
    def make() -> bytes:
        changed = copy.deepcopy(bundle)
        edit(_at(changed, path[:-1]), path[-1])
        return canonical_bytes(changed)

    return make


def _put(bundle: Bundle, path: Path, value: Any) -> Callable[[], bytes]:
    def edit(parent: Any, key: str | int) -> None:
        parent[key] = value

    return _with(bundle, path, edit)


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    if isinstance(value, dict):
        for name in value:
            yield from _paths(value[name], (*path, name))
    elif isinstance(value, list):
        for at in range(len(value)):
            yield from _paths(value[at], (*path, at))


def _structural(bundle: Bundle) -> list[tuple[str, list[Change]]]:
    kinds: dict[str, list[Change]] = {}
    for path in _paths(bundle):
        where, value, parent = "/".join(map(str, path)), _at(bundle, path), _at(bundle, path[:-1])
        shape = "/".join("#" if isinstance(part, int) else part for part in path)

        def add(what: str, make: Callable[[], bytes], where: str = where, shape: str = shape) -> None:
            kinds.setdefault(f"{what} {shape}", []).append((where, make))

        is_withheld = path[0] == "entries" and "disclosures" in path[-2:]
        if not is_withheld and not (path[0] == "histories" and len(path) == 2 and _is_related(bundle, value)):
            add("removed", _with(bundle, path, lambda at, key: at.__delitem__(key)))
        if isinstance(parent, list):
            add("doubled", _with(bundle, path, lambda at, key: at.insert(key, at[key])))
            if isinstance(path[-1], int) and path[-1] and parent[path[-1] - 1] != value:
                add("swapped", _with(bundle, path, _swap))
        elif isinstance(value, dict | list):
            add("emptied", _put(bundle, path, type(value)()))
        else:
            add("renamed", _with(bundle, path, lambda at, key: at.update({f"{key}x": at.pop(key)})))
        for wrong in _TYPES:
            is_other = type(wrong) is not type(value) or (isinstance(wrong, str) and wrong != value)
            if is_other and not (is_withheld and wrong == []):
                add(f"{type(wrong).__name__} instead of", _put(bundle, path, wrong))
        if isinstance(value, str):
            for what, text in _texts(value):
                add(f"text {what} in", _put(bundle, path, text))
        elif type(value) is int:
            for number in (value + 1, value - 1, value ^ 2, value + 256, -value - 1, 2**32, 2**53 - 1):
                add("number changed in", _put(bundle, path, number))
        elif isinstance(value, list):
            add("junk added to", _with(bundle, path, lambda at, key: at[key].append(at[key][0] if at[key] else "x")))
        else:
            add("member added to", _with(bundle, path, lambda at, key: at[key].update({"more": 1})))
    return list(kinds.items())


def _swap(parent: Any, at: Any) -> None:
    parent[at - 1], parent[at] = parent[at], parent[at - 1]


def _texts(value: str) -> Iterator[tuple[str, str]]:
    if not value:
        return
    yield "cut", value[:-1]
    yield "lengthened", value + "A"
    yield "padded", value + "="
    yield "spaced", value + " "
    yield "broken", value + "\n"
    yield "in another letter case", value.swapcase()
    yield "not of ASCII", "\u00e9" + value
    yield "with a control character", value + "\u0000"
    yield "with another first letter", ("B" if value[0] == "A" else "A") + value[1:]
    middle = len(value) // 2
    yield "with another middle letter", value[:middle] + ("B" if value[middle] != "B" else "C") + value[middle + 1 :]
    if value[-1] in _ALPHABET:
        # One bit of the last base64url letter: a hash bit or a stray one.
        yield "with a stray bit", value[:-1] + _ALPHABET[_ALPHABET.index(value[-1]) ^ 1]
        yield "with a last bit flipped", value[:-1] + _ALPHABET[_ALPHABET.index(value[-1]) ^ 32]
    yield "in the other base64 alphabet", value.replace("-", "+").replace("_", "/")


def _bytewise(good: bytes, chance: random.Random) -> list[tuple[str, list[Change]]]:
    def fixed(data: bytes) -> Callable[[], bytes]:
        return lambda: data

    def version(text: bytes) -> bytes:
        return good.replace(b'"v":1', text, 1)

    changed: list[tuple[str, bytes]] = [
        ("space before", b" " + good),
        ("newline behind", good + b"\n"),
        ("byte order mark", b"\xef\xbb\xbf" + good),
        ("nothing", b""),
        ("twice", good + good),
        ("half", good[: len(good) // 2]),
        ("no last byte", good[:-1]),
        ("member twice", version(b'"v":1,"v":1')),
        ("spaced", good.replace(b":", b": ", 1)),
        ("decimal", version(b'"v":1.0')),
        ("exponent", version(b'"v":1e0')),
        ("minus zero", good.replace(b'"id":0', b'"id":-0', 1)),
        ("huge", version(b'"v":' + b"9" * 40)),
        ("beyond 2^53", version(b'"v":9007199254740992')),
        ("leading zero", version(b'"v":01')),
        ("NaN", version(b'"v":NaN')),
        ("infinity", version(b'"v":-Infinity')),
        ("huge exponent", version(b'"v":1e99')),
        ("many digits", version(b'"v":0.' + b"1" * 45)),
        ("escaped letter", version(b'"\\u0076":1')),
        ("half a pair", version(b'"v":"\\ud800"')),
        ("not UTF-8", version(b'"v":"\xff"')),
        ("control character", version(b'"v":"\x01"')),
        ("comma at the end", good[:-1] + b",}"),
        ("comment", b"//\n" + good),
        ("single quotes", good.replace(b'"', b"'")),
        ("deep", b"[" * 17 + b"]" * 17),
        ("a list", b"[" + good + b"]"),
        ("null", b"null"),
        ("zero byte", good + b"\0"),
        ("members in another order", b'{"v":1,' + good[1:].replace(b',"v":1', b"", 1)),
    ]
    flips: list[Change] = []
    for position in range(0, len(good), max(1, len(good) // 700)):
        data = bytearray(good)
        data[position] ^= 1 << chance.randrange(8)
        flips.append((f"bit at {position}", fixed(bytes(data))))
    cuts: list[Change] = []
    for _ in range(40):
        start = chance.randrange(len(good))
        end = min(len(good), start + chance.choice([1, 1, 2, 43, 400]))
        cuts.append((f"bytes {start} to {end} cut", fixed(good[:start] + good[end:])))
        cuts.append((f"bytes {start} to {end} doubled", fixed(good[:end] + good[start:])))
    each = [(f"bytes, {name}", [(name, fixed(data))]) for name, data in changed]
    parts = [(f"bytes flipped {part}", flips[part * 70 : part * 70 + 70]) for part in range(11)]
    return [*each, *parts, ("bytes cut", cuts)]


def _semantic(bundle: Bundle, other: Bundle) -> list[tuple[str, list[Change]]]:
    kinds: dict[str, list[Change]] = {}

    def add(kind: str, name: str, edit: Callable[..., Any], *values: Any) -> None:
        def make() -> bytes:
            changed = copy.deepcopy(bundle)
            edit(changed, *values)
            return canonical_bytes(changed)

        kinds.setdefault(kind, []).append((name, make))

    for name in bundle:
        if other[name] != bundle[name]:
            add("part of another bundle", name, lambda b, n: b.update({n: copy.deepcopy(other[n])}), name)
    for at, history in enumerate(bundle["histories"]):
        label = f"{history['name'][0]} {history['name'][1]}"
        if not _is_related(bundle, history):
            add("history hidden by its key", label, lambda b, i: _unname(b["histories"][i]), at)
            add("history left out with its entries", label, lambda b, i: _drop_history(b, i), at)
            add("history without its entries", label, lambda b, i: b["histories"].pop(i), at)
        for place in range(len(history["steps"])):
            add("step and entry left out", f"{label} {place}", lambda b, i, j: _drop_step(b, i, j), at, place)
            add("history cut", f"{label} {place}", lambda b, i, j: _cut(b["histories"][i], j), at, place)
        add("claimed absent", label, lambda b, i: b["histories"][i].update(steps=[], other=[b64u(bytes(32))] * 2), at)
        add("claimed empty", label, lambda b, i: b["histories"][i].update(steps=[]), at)
    size = bundle["size"]
    for wrong in (size - 1, size + 1, size * 2, size // 2, 1, 0):
        add("another size", str(wrong), lambda b, s: b.update(size=s), wrong)
        add("another size in all places", str(wrong), lambda b, s: _resize(b, s), wrong)
    text, _, lines = bundle["checkpoint"].rpartition("\n\n")
    for at, line in enumerate(lines.splitlines()):
        # Base64 of key hash (4 bytes), of a cosigner's time (8), of the signature (64): one letter of each.
        start = line.rindex(" ") + 1
        for place in (start, start + 8, start + 20, start + 80):
            letter = "A" if line[place] != "A" else "B"
            note = bundle["checkpoint"].replace(line, line[:place] + letter + line[place + 1 :])
            add("signature line changed", f"{at} at {place}", lambda b, n: b.update(checkpoint=n), note)
        add("signature line doubled", str(at), lambda b, n: b.update(checkpoint=b["checkpoint"] + n + "\n"), line)
    add("checkpoint extended", "a line", lambda b: b.update(checkpoint=text + "\nmore\n\n" + lines))
    add("checkpoint unsigned", "no lines", lambda b: b.update(checkpoint=text + "\n"))
    _across(bundle, add)
    return list(kinds.items())


def _cut(history: dict[str, Any], place: int) -> None:
    del history["steps"][place:]


def _across(bundle: Bundle, add: Callable[..., None]) -> None:
    entries = bundle["entries"]
    for at in range(len(entries) - 1):
        for member in ("data", "path", "disclosures", "items"):
            if entries[at].get(member) != entries[at + 1].get(member):
                add(f"{member} of two entries", str(at), lambda b, i, m: _exchange(b["entries"], i, m), at, member)
        add("entry under another index", str(at), lambda b, i: _renumber(b["entries"][i], "index"), at)
    for at, entry in enumerate(entries):
        add("more disclosed", str(at), lambda b, i: b["entries"][i].setdefault("disclosures", []).append(STRANGE), at)
        if entry["data"].count(".") == 2:
            add("signature of another entry", str(at), lambda b, i: _resign(b, i), at)
            add("no signature", str(at), lambda b, i: _replace_part(b["entries"][i], 2, ""), at)
            add("no algorithm", str(at), lambda b, i: _replace_part(b["entries"][i], 0, b64u(b"{}")), at)
        for number in range(len(entry.get("items", []))):
            where = f"{at}/{number}"
            add("up-links left out", where, lambda b, i, n: _hide_up_links(b["entries"][i]["items"][n]), at, number)
            add("event renumbered", where, lambda b, i, n: _renumber(b["entries"][i]["items"][n], 0), at, number)
            add("items in another role", where, lambda b, i, n: _recast(b["entries"][i]["items"][n]), at, number)


def _exchange(entries: list[Any], at: int, member: str) -> None:
    first, second = entries[at].pop(member, None), entries[at + 1].pop(member, None)
    for entry, value in ((entries[at], second), (entries[at + 1], first)):
        if value is not None:
            entry[member] = value


def _resign(bundle: Bundle, at: int) -> None:
    entries = bundle["entries"]
    signature = entries[at - 1]["data"].rpartition(".")[2]
    entries[at]["data"] = entries[at]["data"].rpartition(".")[0] + "." + signature


def _hide_up_links(event: list[Any]) -> None:
    event[1] = [leaf for leaf in event[1] if leaf[1] > 5] or event[1][1:]


def _renumber(parent: Any, key: str | int) -> None:
    parent[key] += 1


def _replace_part(entry: dict[str, Any], place: int, text: str) -> None:
    parts = entry["data"].split(".")
    parts[place] = text
    entry["data"] = ".".join(parts)


def _recast(event: list[Any]) -> None:
    event[1][0][1] = event[1][0][1] % 12 + 1


def _unname(history: dict[str, Any]) -> None:
    kind, identifier = history.pop("name")
    history["key"] = b64u(sha256(f"tracebond/{kind}/1".encode() + b"\0" + identifier.encode()))


def _drop_one(bundle: Bundle, at: int) -> None:
    del bundle["histories"][at]


def _drop_history(bundle: Bundle, at: int) -> None:
    gone = bundle["histories"].pop(at)
    left = {leaf for history in bundle["histories"] for leaf, _ in history["steps"]}
    leaves = {leaf for leaf, _ in gone["steps"]} - left
    bundle["entries"] = [entry for entry in bundle["entries"] if entry["index"] not in leaves]


def _drop_step(bundle: Bundle, at: int, place: int) -> None:
    leaf, _ = bundle["histories"][at]["steps"].pop(place)
    if not any(leaf == step[0] for history in bundle["histories"] for step in history["steps"]):
        bundle["entries"] = [entry for entry in bundle["entries"] if entry["index"] != leaf]


def _resize(bundle: Bundle, size: int) -> None:
    old = bundle["size"]
    bundle["size"] = size
    bundle["state"]["leaf"] = bundle["state"]["leaf"].replace(f'"size":{old}', f'"size":{size}')
    bundle["checkpoint"] = bundle["checkpoint"].replace(f"\n{old}\n", f"\n{size}\n", 1)
