"""Which devices somebody wants to enrol: one by hand or many from a CSV file, each row read on its own."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from core.crypto import Jwk, P256Public, thumbprint
from core.errors import Rejected
from core.identifiers import giai_id, org_id, parse

COLUMNS = ("gln", "giai", "jwk", "steps", "products", "places", "rate_per_s")
ROWS_MAX = 10_000
RATE_MAX = 100_000


@dataclass(frozen=True)
class Wanted:
    """A device to enrol.

    Attributes:
        jwk: its public key; None lets a key be made, or the device claim its place with a code.
        scope: what its key may sign; absent members do not limit.
    """

    gln: str
    giai: str
    jwk: Jwk | None = None
    scope: Mapping[str, Any] = field(default_factory=dict)

    @property
    def iss(self) -> str:
        """The device's Digital Link (AI 8004)."""
        return giai_id(self.giai)


@dataclass(frozen=True)
class RowFault:
    """What is wrong with one row of a file: its line, the column, a stable code and a sentence."""

    line: int
    column: str
    code: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.column or 'row'}: {self.message}"


@dataclass(frozen=True)
class Rows:
    """A file read: the devices that are right, with their lines, and the faults of those that are not."""

    devices: tuple[tuple[int, Wanted], ...]
    faults: tuple[RowFault, ...]


def scope_of(
    *,
    steps: Iterable[str] = (),
    products: Iterable[str] = (),
    places: Iterable[str] = (),
    rate_per_s: int | None = None,
) -> dict[str, Any]:
    """A key's scope from what a person wrote; identifiers in any spelling.

    Raises:
        Rejected: an identifier or the rate is malformed.
    """
    scope: dict[str, Any] = {}
    if steps := [step.strip() for step in steps if step.strip()]:
        scope["steps"] = sorted(set(steps))
    if products := [_checked(text, "products") for text in products if text.strip()]:
        scope["products"] = sorted(set(products))
    if places := [_checked(text, "places") for text in places if text.strip()]:
        scope["places"] = sorted(set(places))
    if rate_per_s is not None:
        if not 1 <= rate_per_s <= RATE_MAX:
            raise Rejected(f"A rate is 1 to {RATE_MAX} messages a second.", code="bad_rate", pointer="rate_per_s")
        scope["rate"] = {"per_s": rate_per_s, "burst": 5 * rate_per_s}
    return scope


def read_rows(text: str, *, gln: str | None = None) -> Rows:
    """The devices of a CSV file, lists inside a cell parted by ``|``, and what is wrong with each bad row.

    Args:
        gln: the organisation that every row must be of; the column ``gln`` may then be left out.

    Raises:
        Rejected: ``bad_columns`` or ``too_many_rows``: nothing of the file can be read.
    """
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    names = set(reader.fieldnames or ())
    if names - set(COLUMNS) or not ({"gln", "giai"} if gln is None else {"giai"}) <= names:
        raise Rejected(
            f"The first line names columns of {', '.join(COLUMNS)}; gln and giai are needed.", code="bad_columns"
        )
    devices: list[tuple[int, Wanted]] = []
    faults: list[RowFault] = []
    seen: dict[tuple[str, str], int] = {}
    keys: dict[str, int] = {}
    for number, row in enumerate(reader, start=2):
        if number > ROWS_MAX + 1:
            raise Rejected(f"At most {ROWS_MAX} devices in one file.", code="too_many_rows")
        try:
            device = _wanted(row, gln)
            _once(seen, (device.gln, device.giai), number, "The device", "giai")
            if device.jwk is not None:
                _once(keys, thumbprint(device.jwk), number, "The key", "jwk")
            devices.append((number, device))
        except Rejected as error:
            faults.append(RowFault(number, error.pointer.strip("/"), error.code, error.message))
    return Rows(tuple(devices), tuple(faults))


def read_csv(text: str) -> tuple[list[Wanted], list[str]]:
    """The devices of a CSV file and a sentence for each bad row, by its line number.

    Raises:
        Rejected: ``bad_columns`` or ``too_many_rows``: nothing of the file can be read.
    """
    rows = read_rows(text)
    return [device for _, device in rows.devices], [str(fault) for fault in rows.faults]


def read_jwk(text: str) -> Jwk:
    """A public P-256 key as JSON.

    Raises:
        Rejected: ``bad_jwk``; a private key is refused too, for it must never leave its device.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Rejected("The key is no JSON object.", code="bad_jwk", pointer="jwk") from error
    if not isinstance(found, dict) or "d" in found:
        raise Rejected("Give the public key alone: kty, crv, x, y.", code="bad_jwk", pointer="jwk")
    jwk = {str(name): str(found[name]) for name in ("kty", "crv", "x", "y") if name in found}
    P256Public.from_jwk(jwk)
    return jwk


def _once(seen: dict[Any, int], key: Any, number: int, what: str, column: str) -> None:
    earlier = seen.setdefault(key, number)
    if earlier != number:
        raise Rejected(f"{what} stands in line {earlier} already.", code="twice", pointer=column)


def _wanted(row: Mapping[str, Any], gln: str | None) -> Wanted:
    if None in row or any(value is None for value in row.values()):
        raise Rejected("The row has another number of cells than the first line.", code="bad_row")
    cells = {name: str(value).strip() for name, value in row.items()}
    cells.setdefault("gln", gln or "")
    for name, check in (("gln", org_id), ("giai", giai_id)):
        try:
            check(cells[name])
        except Rejected as error:
            raise Rejected(error.message, code=error.code, pointer=name) from error
    if gln is not None and cells["gln"] != gln:
        raise Rejected(f"The device is of another organisation than {gln}.", code="other_organisation", pointer="gln")
    rate = cells.get("rate_per_s") or None
    if rate is not None and not (rate.isascii() and rate.isdigit() and len(rate) < 10):
        raise Rejected("rate_per_s is a whole number.", code="bad_rate", pointer="rate_per_s")
    return Wanted(
        cells["gln"],
        cells["giai"],
        read_jwk(cells["jwk"]) if cells.get("jwk") else None,
        scope_of(
            steps=cells.get("steps", "").split("|"),
            products=cells.get("products", "").split("|"),
            places=cells.get("places", "").split("|"),
            rate_per_s=None if rate is None else int(rate),
        ),
    )


def _checked(text: str, column: str) -> str:
    try:
        found = parse(text.strip())
    except Rejected as error:
        raise Rejected(error.message, code=error.code, pointer=column) from error
    if column == "products" and found.kind != "gtin":
        raise Rejected("A product is a GTIN without serial or lot.", code="bad_product", pointer=column)
    if column == "places" and found.kind not in ("gln", "sgln"):
        raise Rejected("A place is a GLN of a location (AI 414).", code="bad_place", pointer=column)
    return found.canonical
