"""GS1 tables: application identifiers, identification keys with their qualifiers, character sets, check digits.

Source: GS1 General Specifications 25, chapters 3 and 7; GS1 Digital Link URI Syntax 1.4, section 4.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from core.errors import Rejected

CSET_82 = "!\"%&'()*+,-./0123456789:;<=>?ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
CSET_39 = "#-/0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CSET_64 = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz="
_CSET_32 = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83)
_SETS = {"N": "0-9", "X": re.escape(CSET_82), "Y": re.escape(CSET_39), "Z": re.escape(_CSET_64)}

# Data field formats in the notation of the General Specifications: N numeric, X character set 82, Y set 39, Z file-safe
# base64; "6" exactly six, "..20" one to twenty, brackets for an optional part; "390n" stands for 3900 to 3909.
# A star marks the AIs whose length the first two digits fix, so that no FNC1 follows them (figure 7.8.5-2).
_FORMATS = """
00*N18 01*N14 02*N14 03*N14 10:X..20 11*N6 12*N6 13*N6 15*N6 16*N6 17*N6 20*N2 21:X..20 22:X..20
235:X..28 240:X..30 241:X..30 242:N..6 243:X..20 250:X..30 251:X..30 253:N13[X..17] 254:X..20 255:N13[N..12]
30:N..8 37:N..8 390n:N..15 391n:N3N..15 392n:N..15 393n:N3N..15 3940-3943:N4 3950-3955:N6
400:X..30 401:X..30 402:N17 403:X..30 410*N13 411*N13 412*N13 413*N13 414*N13 415*N13 416*N13 417*N13
420:X..20 421:N3X..9 422:N3 423:N3[N3][N3][N3][N3] 424:N3 425:N3[N3][N3][N3][N3] 426:N3 427:X..3
4300:X..35 4301:X..35 4302:X..70 4303:X..70 4304:X..70 4305:X..70 4306:X..70 4307:X2 4308:X..30 4309:N10N10
4310:X..35 4311:X..35 4312:X..70 4313:X..70 4314:X..70 4315:X..70 4316:X..70 4317:X2 4318:X..20 4319:X..30
4320:X..35 4321:N1 4322:N1 4323:N1 4324:N6N4 4325:N6N4 4326:N6 4330-4333:N6[X1]
7001:N13 7002:X..30 7003:N6N4 7004:N..4 7005:X..12 7006:N6 7007:N6[N6] 7008:X..3 7009:X..10 7010:X..2
7011:N6[N4] 7020:X..20 7021:X..20 7022:X..20 7023:X..30 703n:N3X..27 7040:N1X1X1X1 7041:X..4
710-717:X..20 723n:X2X..28 7240:X..20 7241:N2 7242:X..25 7250:N8 7251:N8N4 7252:N1 7253:X..40 7254:X..40
7255:X..10 7256:X..90 7257:X..70 7258:X3 7259:X..40
8001:N4N5N3N1N1 8002:X..20 8003:N1N13[X..16] 8004:X..30 8005:N6 8006:N14N4 8007:X..34 8008:N6N2[N2][N2]
8009:X..50 8010:Y..30 8011:N..12 8012:X..20 8013:X..25 8014:X..25 8017:N18 8018:N18 8019:N..10 8020:X..25
8026:N14N4 8030:Z..90 8040:N15 8041:N15 8042:N32 8043:N18[N..2] 8110:X..70 8111:N4 8112:X..70 8200:X..70
90:X..30 91-99:X..90
"""
# 31nn to 36nn: trade measures; six digits, the fourth digit of the AI is the place of the decimal point.
_MEASURES = (*range(310, 317), *range(320, 338), *range(340, 358), *range(360, 370))


class Key(NamedTuple):
    """A GS1 identification key as a Digital Link path knows it.

    Attributes:
        qualifiers: orders in which qualifier AIs may follow, each qualifier optional.
        finest: qualifiers that make a finer thing, finest first; at most one of them is kept.
        check_at: number of leading digits whose last is their check digit, 0 when there is none.
        gcp_at: position of the GS1 Company Prefix.
    """

    ai: str
    qualifiers: tuple[tuple[str, ...], ...] = ()
    finest: tuple[str, ...] = ()
    check_at: int = 0
    gcp_at: int = 0


KEYS: Mapping[str, Key] = {
    key.ai: key
    for key in (
        Key("00", check_at=18, gcp_at=1),
        Key("01", (("22", "10", "21"), ("235",)), ("21", "235", "10"), check_at=14, gcp_at=1),
        Key("253", check_at=13),
        Key("255", check_at=13),
        Key("401"),
        Key("402", check_at=17),
        Key("414", (("254",), ("7040",)), ("254",), check_at=13),
        Key("415", (("8020",),), ("8020",), check_at=13),
        Key("417", (("7040",),), check_at=13),
        Key("8003", check_at=14, gcp_at=1),
        Key("8004", (("7040",),)),
        Key("8006", (("22", "10", "21"),), ("21", "10"), check_at=14, gcp_at=1),
        Key("8010", (("8011",),), ("8011",)),
        Key("8013"),
        Key("8017", (("8019",),), check_at=18),
        Key("8018", (("8019",),), check_at=18),
    )
}
QUALIFIERS = frozenset(ai for key in KEYS.values() for order in key.qualifiers for ai in order)
# The short names of GS1 Digital Link 1.1, section 4.2 (withdrawn in 1.2, still printed on packs).
SHORT_NAMES: Mapping[str, str] = {
    "gtin": "01", "itip": "8006", "gmn": "8013", "cpid": "8010", "gln": "414", "payto": "415", "party": "417",
    "gsrnp": "8017", "gsrn": "8018", "gcn": "255", "sscc": "00", "gdti": "253", "ginc": "401", "gsin": "402",
    "grai": "8003", "giai": "8004", "cpv": "22", "lot": "10", "ser": "21", "tpx": "235", "cpsn": "8011",
    "glnx": "254", "srin": "8019", "refno": "8020",
}  # fmt: skip


def check_digit(digits: str) -> str:
    """The check digit that follows ``digits`` (weights 3 and 1 from the right, modulo 10).

    Source: GS1 General Specifications, section 7.9.1.
    """
    codes = digits.encode("ascii")
    total = 3 * sum(codes[::-2]) + sum(codes[-2::-2])
    zeros = 48 * (3 * ((len(codes) + 1) // 2) + len(codes) // 2)
    return str((zeros - total) % 10)


def check_pair(text: str) -> str:
    """The check character pair that follows a GMN without its pair.

    Source: GS1 General Specifications, section 7.9.5.
    """
    total = sum(CSET_82.index(char) * prime for char, prime in zip(reversed(text), _PRIMES, strict=False)) % 1021
    return _CSET_32[total >> 5] + _CSET_32[total & 31]


def has_check_digit(digits: str) -> bool:
    """Whether the last digit is the check digit of the others."""
    return check_digit(digits[:-1]) == digits[-1]


def is_fixed_length(ai: str) -> bool:
    """Whether no FNC1 is needed after this AI's data field."""
    return ai in _FIXED


def pattern(ai: str) -> re.Pattern[str] | None:
    """The form of an AI's data field, None for an AI that is not allocated."""
    return _PATTERNS.get(ai)


def fixed_length(ai: str) -> int:
    """The number of characters of the data field of an AI for which ``is_fixed_length`` holds."""
    return _FIXED[ai]


def fields_of(ai: str) -> tuple[tuple[str, int, bool], ...]:
    """The components of an AI's data field as compression packs them: N or X, length or longest length, is fixed.

    Source: GS1 Digital Link URI Syntax 1.2, table F.
    """
    return _FIELDS[ai]


def checked_attribute(ai: str, value: str) -> str:
    """The value of a data attribute (any AI that stands in a query), with check digit and date rules.

    Raises:
        Rejected: ``bad_identifier`` or ``bad_check_digit``.
    """
    if not _matches(ai, value):
        raise Rejected(f"{value!r} is no value of the GS1 application identifier ({ai}).", code="bad_identifier")
    if ai in _CHECKED_ATTRIBUTES and not has_check_digit(value):
        raise Rejected(f"The check digit of ({ai}) {value} is wrong.", code="bad_check_digit")
    if ai in _DATES and not (1 <= int(value[2:4]) <= 12 and int(value[4:6]) <= 31):
        raise Rejected(f"({ai}) {value} is no date as YYMMDD.", code="bad_identifier")
    return value


def checked_key(ai: str, value: str) -> str:
    """The value of an identification key in full length, every rule of its kind applied.

    A GTIN-8, GTIN-12 or GTIN-13 is filled up with zeros to 14 digits.

    Raises:
        Rejected: ``bad_identifier`` for form, length or character; ``bad_check_digit``.
    """
    if ai == "01" and len(value) in (8, 12, 13) and value.isdigit():
        value = value.rjust(14, "0")
    key = KEYS[ai]
    if not _matches(ai, value):
        raise Rejected(f"{value!r} is no value of the GS1 key ({ai}).", code="bad_identifier")
    if key.check_at and not has_check_digit(value[: key.check_at]):
        wanted = check_digit(value[: key.check_at - 1])
        raise Rejected(f"The check digit of ({ai}) {value} is wrong; {wanted} fits.", code="bad_check_digit")
    if not _GCP.match(value, key.gcp_at):
        raise Rejected(f"({ai}) {value} has no GS1 Company Prefix.", code="bad_identifier")
    if ai == "8003" and value[0] != "0":
        raise Rejected(f"A GRAI starts with 0, not as {value}.", code="bad_identifier")
    if ai == "8006":
        _check_pieces(value[14:])
    if ai == "8013" and (len(value) < 3 or check_pair(value[:-2]) != value[-2:]):
        raise Rejected(f"The check characters of the GMN {value} are wrong.", code="bad_check_digit")
    return value


def checked_qualifier(ai: str, value: str) -> str:
    """The value of a key qualifier or other AI, after its form is checked.

    Raises:
        Rejected: ``bad_identifier``.
    """
    if not _matches(ai, value):
        raise Rejected(f"{value!r} is no value of the GS1 application identifier ({ai}).", code="bad_identifier")
    if ai == "8011" and value[0] == "0":
        raise Rejected("A CPID serial number does not start with 0.", code="bad_identifier")
    return value


def kept(ai: str, qualifiers: Mapping[str, str]) -> tuple[str, str] | None:
    """The one qualifier that makes the finest thing, None when the key stands alone."""
    return next(((name, qualifiers[name]) for name in KEYS[ai].finest if name in qualifiers), None)


def _matches(ai: str, value: str) -> bool:
    form = _PATTERNS.get(ai)
    return form is not None and form.fullmatch(value) is not None


def _check_pieces(pieces: str) -> None:
    piece, total = int(pieces[:2]), int(pieces[2:])
    if not 1 <= piece <= total:
        raise Rejected(f"Piece {piece} of {total} is no piece of a trade item.", code="bad_identifier")


def _expand(name: str) -> list[str]:
    if "-" in name:
        first, last = name.split("-")
        return [str(number) for number in range(int(first), int(last) + 1)]
    if name.endswith("n"):
        return [name[:-1] + str(number) for number in range(10)]
    return [name]


_PART = re.compile(r"(\[)?([NXYZ])(\.\.)?(\d+)\]?")


def _compile(form: str) -> re.Pattern[str]:
    text = ""
    for bracket, kind, dots, size in _PART.findall(form):
        part = f"[{_SETS[kind]}]" + (f"{{1,{size}}}" if dots else f"{{{size}}}")
        text += f"(?:{part})?" if bracket else part
    return re.compile(text)


def _fields(form: str) -> tuple[tuple[str, int, bool], ...]:
    """Neighbours of one kind packed together: fixed digits, optional rest, fixed characters."""
    found: list[tuple[str, int, bool]] = []
    for bracket, kind, dots, size in _PART.findall(form):
        part = ("N" if kind == "N" else "X", int(size), not (bracket or dots))
        if found and found[-1][0] == part[0] and found[-1][2] == part[2]:
            found[-1] = (part[0], found[-1][1] + part[1], part[2])
        else:
            found.append(part)
    return tuple(found)


_GCP = re.compile(r"[0-9]{4}")
_CHECKED_ATTRIBUTES = frozenset({"02", "03", "410", "411", "412", "413", "414", "415", "416", "417"})
_DATES = frozenset({"11", "12", "13", "15", "16", "17", "7006"})
_FIELDS: dict[str, tuple[tuple[str, int, bool], ...]] = {}
_PATTERNS: dict[str, re.Pattern[str]] = {}
_FIXED: dict[str, int] = {}
for _names, _mark, _form in re.findall(r"(\S+?)([*:])(\S+)", _FORMATS):
    for _name in _expand(_names):
        _PATTERNS[_name] = _compile(_form)
        _FIELDS[_name] = _fields(_form)
        if _mark == "*":
            _FIXED[_name] = int(_form[1:])
for _name in (f"{_measure}{_point}" for _measure in _MEASURES for _point in range(6)):
    _PATTERNS[_name] = _compile("N6")
    _FIELDS[_name] = _fields("N6")
    _FIXED[_name] = 6
for _name in _expand("723n"):
    _FIELDS[_name] = (("X", 30, False),)  # table F packs the certification scheme's two letters with its reference
