"""Seeded randomness: one seed repeats a whole run, serial numbers, salts and signals included."""

import hmac
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

# Crockford's base 32: no I, L, O or U, so that a serial read aloud is typed back right. All 32 characters are
# in the AI 21 character set and need no percent-encoding.
SERIAL_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
SERIAL_CHARACTERS = 20


class Drbg:
    """HMAC-DRBG with SHA-256 (NIST SP 800-90A, revision 1, section 10.1.2), without reseeding.

    Its output cannot be told from noise by anyone who does not hold the seed, so serial numbers made by it are
    unpredictable as long as the seed is secret; with a known seed it repeats bit for bit.

    Args:
        seed: the seed material; any bytes.
    """

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._key = bytes(32)
        self._value = b"\x01" * 32
        self._update(seed)

    @classmethod
    def of(cls, seed: int | str, *labels: str) -> "Drbg":
        """A generator for one seed and purpose; other labels give unrelated streams."""
        return cls("\x00".join(["tracebond/simulators/1", str(seed), *labels]).encode())

    def child(self, *labels: str) -> "Drbg":
        """A generator of its own for a part, so that drawing more in one part changes no other part."""
        return Drbg(self._seed + b"\x00" + "\x00".join(labels).encode())

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        out = b""
        while len(out) < count:
            self._value = hmac.digest(self._key, self._value, "sha256")
            out += self._value
        self._update(b"")
        return out[:count]

    def below(self, end: int) -> int:
        """A whole number from 0 up to, not including, ``end``."""
        # 128 bits against ranges of at most 2**64: the bias is below 2**-64.
        return int.from_bytes(self.take(16)) % end

    def between(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return low + self.below(high - low + 1)

    def real(self) -> float:
        """A number from 0 up to, not including, 1, with 53 random bits."""
        return (int.from_bytes(self.take(7)) >> 3) / (1 << 53)

    def noise(self, width: float) -> float:
        """A bell-shaped number around 0 (sum of four uniform ones), between -2 and 2 ``width``."""
        return (sum(self.real() for _ in range(4)) - 2.0) * width

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.real() < probability

    def choice(self, things: Sequence[T]) -> T:
        """One of the given things."""
        return things[self.below(len(things))]

    def shuffled(self, things: Sequence[T]) -> list[T]:
        """The things in a random order (Fisher and Yates)."""
        mixed = list(things)
        for last in range(len(mixed) - 1, 0, -1):
            other = self.below(last + 1)
            mixed[last], mixed[other] = mixed[other], mixed[last]
        return mixed

    def serial(self) -> str:
        """A serial number of 20 characters with 100 random bits (AI 21 holds 20)."""
        number = int.from_bytes(self.take(13)) >> 4
        return "".join(SERIAL_ALPHABET[(number >> (5 * place)) & 31] for place in range(SERIAL_CHARACTERS))

    def uuid(self) -> str:
        """An ``urn:uuid:`` of version 8 (RFC 9562), its 122 free bits random."""
        raw = bytearray(self.take(16))
        raw[6] = raw[6] & 0x0F | 0x80
        raw[8] = raw[8] & 0x3F | 0x80
        text = raw.hex()
        return f"urn:uuid:{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def _update(self, data: bytes) -> None:
        self._key = hmac.digest(self._key, self._value + b"\x00" + data, "sha256")
        self._value = hmac.digest(self._key, self._value, "sha256")
        if data:
            self._key = hmac.digest(self._key, self._value + b"\x01" + data, "sha256")
            self._value = hmac.digest(self._key, self._value, "sha256")
