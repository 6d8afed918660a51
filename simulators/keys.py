"""GS1 keys in the two spellings that organisations use: EPC URN and Digital Link."""

from dataclasses import dataclass

from core.identifiers import check_digit

CANONICAL_DOMAIN = "https://id.gs1.org"


@dataclass(frozen=True)
class Key:
    """One GS1 key of a thing, place, party or class, with both of its usual spellings.

    Args:
        urn: the EPC URN.
        path: the path of the Digital Link, from the first slash on.
    """

    urn: str
    path: str

    @property
    def id(self) -> str:
        """The canonical id: the Digital Link on id.gs1.org."""
        return CANONICAL_DOMAIN + self.path


@dataclass(frozen=True)
class Spelling:
    """How one organisation writes keys: as EPC URNs, or as Digital Links on a domain.

    Args:
        domain: scheme and host of its Digital Links; "" where it writes EPC URNs.
    """

    domain: str

    def of(self, key: Key) -> str:
        """The key as this organisation writes it."""
        return self.domain + key.path if self.domain else key.urn


URN = Spelling("")
GS1 = Spelling(CANONICAL_DOMAIN)


def gln(prefix: str, reference: int) -> str:
    """The 13-digit GLN of a seven-digit company prefix and a location number."""
    digits = f"{prefix}{reference:05d}"
    return digits + check_digit(digits)


def party(prefix: str, reference: int = 1) -> Key:
    """A party (AI 417)."""
    return Key(f"urn:epc:id:pgln:{prefix}.{reference:05d}", f"/417/{gln(prefix, reference)}")


def place(prefix: str, reference: int, extension: str = "") -> Key:
    """A place (AI 414) or, with an extension (AI 254), a spot inside it."""
    urn = f"urn:epc:id:sgln:{prefix}.{reference:05d}.{extension or '0'}"
    return Key(urn, f"/414/{gln(prefix, reference)}" + (f"/254/{extension}" if extension else ""))


def asset(prefix: str, reference: str) -> Key:
    """An individual asset such as a device (GIAI, AI 8004)."""
    return Key(f"urn:epc:id:giai:{prefix}.{reference}", f"/8004/{prefix}{reference}")


@dataclass(frozen=True)
class Gtin:
    """A trade item number: seven-digit company prefix, indicator 0 and an item reference."""

    prefix: str
    reference: int

    @property
    def digits(self) -> str:
        """The GTIN-14."""
        body = f"0{self.prefix}{self.reference:05d}"
        return body + check_digit(body)

    def kind(self) -> Key:
        """The class of all its items."""
        return Key(f"urn:epc:idpat:sgtin:{self.prefix}.0{self.reference:05d}.*", f"/01/{self.digits}")

    def lot(self, lot: str) -> Key:
        """One lot (AI 10)."""
        return Key(f"urn:epc:class:lgtin:{self.prefix}.0{self.reference:05d}.{lot}", f"/01/{self.digits}/10/{lot}")

    def item(self, serial: str) -> Key:
        """One item (AI 21)."""
        return Key(
            f"urn:epc:id:sgtin:{self.prefix}.0{self.reference:05d}.{serial}",
            f"/01/{self.digits}/21/{serial}",
        )


def sscc(prefix: str, extension: int, number: int) -> Key:
    """A logistic unit (AI 00).

    Args:
        prefix: seven-digit company prefix.
        extension: the extension digit, 0 to 9.
        number: serial reference below 10**9.
    """
    body = f"{extension}{prefix}{number:09d}"
    return Key(f"urn:epc:id:sscc:{prefix}.{extension}{number:09d}", f"/00/{body}{check_digit(body)}")
