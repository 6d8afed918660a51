"""C2SP signed notes: checkpoints (tlog-checkpoint) and cosignatures (tlog-cosignature v1)."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from core.canonical import sha256
from core.crypto import Ed25519Private, Ed25519Public
from core.errors import Rejected

# Room for 16 post-quantum signatures of 5 kB, which the specification asks every verifier to take.
NOTE_BYTES_MAX = 150_000
SIGNATURES_MAX = 64
ED25519 = 0x01
COSIGNATURE = 0x04
NUMBER_MAX = 2**63 - 1


@dataclass(frozen=True)
class Verifier:
    """A named Ed25519 key that may sign notes; ``kind`` is 0x01 for logs, 0x04 for cosigners."""

    name: str
    public: Ed25519Public
    kind: int = ED25519

    @property
    def key_hash(self) -> bytes:
        """The four bytes that lead each of its signatures (C2SP signed-note)."""
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public.raw)[:4]

    def encode(self) -> str:
        """The verifier key as text: name+hash+base64."""
        key = base64.b64encode(bytes([self.kind]) + self.public.raw).decode()
        return f"{self.name}+{self.key_hash.hex()}+{key}"


@dataclass(frozen=True)
class Checkpoint:
    """A log's head: origin, number of leaves, root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note's text (C2SP tlog-checkpoint)."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def read_verifier(text: str) -> Verifier:
    """The verifier in ``name+hash+base64``.

    Raises:
        Rejected: ``bad_verifier_key``.
    """
    parts = text.split("+", 2)
    try:
        raw = base64.b64decode(parts[2], validate=True)
        verifier = Verifier(_name(parts[0]), Ed25519Public(raw[1:]), raw[0])
    except (IndexError, ValueError, Rejected) as error:
        raise Rejected("A verifier key is name+hash+base64.", code="bad_verifier_key") from error
    if verifier.kind not in (ED25519, COSIGNATURE) or verifier.encode() != text:
        raise Rejected("The verifier key's hash does not fit its name and key.", code="bad_verifier_key")
    return verifier


def read_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text. Extension lines (non-empty, after the third) are passed over.

    Raises:
        Rejected: ``bad_checkpoint``.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() != "" or not all(lines) or not lines[1].isascii() or not lines[1].isdigit():
        raise Rejected("A checkpoint is origin, size and root, a line each.", code="bad_checkpoint")
    size = int(lines[1]) if len(lines[1]) < 20 else -1
    try:
        root = base64.b64decode(lines[2], validate=True)
    except ValueError as error:
        raise Rejected("The root is base64.", code="bad_checkpoint") from error
    if str(size) != lines[1] or size > NUMBER_MAX or len(root) != 32 or base64.b64encode(root).decode() != lines[2]:
        raise Rejected("The size or the root has another spelling.", code="bad_checkpoint")
    return Checkpoint(lines[0], size, root)


def sign_note(text: str, name: str, key: Ed25519Private) -> str:
    """The note of ``text`` with one Ed25519 signature."""
    verifier = Verifier(name, key.public)
    return f"{text}\n{_line(verifier, key.sign(text.encode()))}"


def cosign(text: str, name: str, key: Ed25519Private, *, time: int) -> str:
    """One cosignature/v1 line over a checkpoint's text at ``time`` (unix seconds).

    Raises:
        Rejected: ``bad_time``: the time is not between 0 and 2**63 - 1.
    """
    if not 0 <= time <= NUMBER_MAX:
        raise Rejected("A cosignature's time is unix seconds from 0.", code="bad_time")
    verifier = Verifier(name, key.public, COSIGNATURE)
    signed = f"cosignature/v1\ntime {time}\n{text}".encode()
    return _line(verifier, time.to_bytes(8) + key.sign(signed))


def add_line(note: str, line: str) -> str:
    """The note with one more signature line."""
    return note + line


def split_note(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    """A note's text and its signatures as (name, raw bytes with the key hash).

    Raises:
        Rejected: ``bad_note``.
    """
    if len(note.encode("utf-8", "surrogatepass")) > NOTE_BYTES_MAX or not note.endswith("\n"):
        raise Rejected("A note is short and ends in a newline.", code="bad_note")
    if any(ord(char) < 0x20 and char != "\n" for char in note):
        raise Rejected("A note has no control characters.", code="bad_note")
    body, separator, tail = note.rpartition("\n\n")
    if not separator or not tail:
        raise Rejected("A note's text and its signatures stand apart by an empty line.", code="bad_note")
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise Rejected("A note has too many signatures.", code="bad_note")
    return body + "\n", [_read_line(line) for line in lines]


def open_note(note: str, verifiers: Sequence[Verifier]) -> tuple[str, dict[str, int]]:
    """The note's text and who of ``verifiers`` signed it: name to time (0 for plain signatures).

    Signatures by keys that are not asked for are passed over; a wrong one by a key that is asked for is refused.

    Raises:
        Rejected: ``bad_note``, ``bad_signature``, or ``unsigned_note`` when none of them signed.
    """
    text, signatures = split_note(note)
    known = {(verifier.name, verifier.key_hash): verifier for verifier in verifiers}
    signers: dict[str, int] = {}
    for name, raw in signatures:
        verifier = known.get((name, raw[:4]))
        if verifier is None:
            continue
        signers[name] = check_signature(verifier, text, raw)
    if not signers:
        raise Rejected("None of the expected keys signed this note.", code="unsigned_note")
    return text, signers


def check_signature(verifier: Verifier, text: str, raw: bytes) -> int:
    """The time of a signature over a note's text, 0 for a plain one; ``raw`` leads with the key's hash.

    Raises:
        Rejected: ``bad_signature``.
    """
    if verifier.kind == ED25519:
        verifier.public.verify(text.encode(), raw[4:])
        return 0
    time = int.from_bytes(raw[4:12])
    if time > NUMBER_MAX:
        raise Rejected("A cosignature's time is beyond 2^63 - 1.", code="bad_signature")
    verifier.public.verify(f"cosignature/v1\ntime {time}\n{text}".encode(), raw[12:])
    return time


def _line(verifier: Verifier, signature: bytes) -> str:
    return f"\u2014 {_name(verifier.name)} {base64.b64encode(verifier.key_hash + signature).decode()}\n"


def _read_line(line: str) -> tuple[str, bytes]:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "\u2014":
        raise Rejected("A signature line is a dash, a name and base64.", code="bad_note")
    try:
        raw = base64.b64decode(parts[2], validate=True)
    except ValueError as error:
        raise Rejected("A signature is base64.", code="bad_note") from error
    if len(raw) < 5 or base64.b64encode(raw).decode() != parts[2]:
        raise Rejected("A signature has another spelling.", code="bad_note")
    return _name(parts[1]), raw


def _name(name: str) -> str:
    if not name or any(char.isspace() or char == "+" for char in name):
        raise Rejected("A key name has no spaces and no plus.", code="bad_note")
    return name
