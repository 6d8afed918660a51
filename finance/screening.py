"""Name screening: a borrower and its controller against the bank's lists; a likeness holds the application for people.

Names are compared by edits (rapidfuzz, whole numbers) after normalisation: width and case, punctuation, legal forms,
and the order of words. Nothing clears a hit but two persons.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import sqlalchemy as sa
from rapidfuzz.distance import Indel

from core.canonical import b64u, sha256
from core.errors import Rejected
from core.money import DOWN, rounded
from finance.casetables import screening_hits, screening_lists, screening_names
from finance.commandlog import command
from finance.model import BANK, Actor, Call, Context
from finance.policy import Policy
from ledger import masterdata
from ledger.database import Tx

COLUMNS: Final = ("id", "name_zh", "name_en", "source")
NAMES_MAX: Final = 200_000
_FORMS: Final = re.compile(
    r"(股份有限公司|有限责任公司|集团有限公司|有限公司|公司)$|\b(company|co|ltd|limited|inc|incorporated|corp|corporation|llc|plc|gmbh|ag|sa)\b"
)
_SPLIT: Final = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Hit:
    """A name that is like a listed one.

    Attributes:
        subject: ``borrower`` or ``controller``.
        score_e2: likeness in hundredths of a per cent.
    """

    subject: str
    name: str
    source: str
    version: int
    entry: str
    listed: str
    score_e2: int


def normalised(name: str) -> str:
    """A name as it is compared: width and case folded, accents, punctuation and legal forms off, words in order."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold())
    text = "".join(char for char in text if not unicodedata.combining(char))
    words = _SPLIT.split(_FORMS.sub(" ", " ".join(_SPLIT.split(text)).strip()))
    return " ".join(sorted(word for word in words if word))


def likeness(one: str, other: str) -> Fraction:
    """How alike two normalised names are, 0 to 1: with their words in order, and run together."""
    pairs = ((one, other), (one.replace(" ", ""), other.replace(" ", "")))
    found = [1 - Fraction(Indel.distance(a, b), len(a) + len(b)) for a, b in pairs if a and b]
    return max(found, default=Fraction(0))


def import_list(tx: Tx, ctx: Context, actor: Actor, *, text: str, key: str, reason: str, now: int) -> dict[str, Any]:
    """Take a list of names from CSV (``id,name_zh,name_en,source``): for each source in it a new version counts.

    Raises:
        Rejected: ``not_allowed``, ``bad_list``, ``too_large``.
    """
    actor.need(*BANK)
    by_source = _read_csv(text)

    def act(call: Call) -> dict[str, Any]:
        taken = {}
        for source, rows in sorted(by_source.items()):
            version = _version(tx, actor.org, source) + 1
            own = {"lender": actor.org, "source": source, "version": version}
            tx.execute(screening_lists.insert().values(**own, digest=sha256(text.encode()), names=len(rows), at_s=now))
            tx.execute(screening_names.insert(), [own | row for row in rows])
            taken[source] = {"version": version, "names": len(rows)}
        return {"lists": taken}

    body = {"digest": b64u(sha256(text.encode())), "characters": len(text)}
    return command(tx, ctx, name="import_screening_list", actor=actor, key=key, reason=reason, now=now, body=body,
                   act=act)  # fmt: skip


def names_of(tx: Tx, file: Any) -> list[tuple[str, str]]:
    """(subject, name) of a borrower's file: the organisation under each of its names, and its controller."""
    party = masterdata.party(tx, file.org) or {}
    names = {file.legal_name, str(party.get("name_zh") or ""), str(party.get("name_en") or "")} - {""}
    return [*(("borrower", name) for name in sorted(names)), ("controller", file.controller)]


def screen(tx: Tx, lender: str, names: Iterable[tuple[str, str]], policy: Policy) -> list[Hit]:
    """Every listed name that is alike enough, the most alike first."""
    asked = [(subject, name, normalised(name)) for subject, name in names]
    least = policy.number("screening", "alike")
    found = []
    for row in tx.execute(_current(lender)):
        for listed, folded in ((row.name_zh, row.folded_zh), (row.name_en, row.folded_en)):
            for subject, name, text in asked:
                score = likeness(text, folded)
                if score >= least:
                    found.append(Hit(subject, name, row.source, row.version, row.entry, listed,
                                     rounded(score * 10_000, DOWN)))  # fmt: skip
    return sorted(set(found), key=lambda hit: (-hit.score_e2, hit.subject, hit.source, hit.entry, hit.listed))


def keep_hits(tx: Tx, application: str, hits: Iterable[Hit]) -> list[dict[str, Any]]:
    """Keep the hits that hold an application; as JSON, with their numbers."""
    own = sa.select(sa.func.count()).select_from(screening_hits).where(screening_hits.c.application == application)
    start = int(tx.execute(own).scalar_one())
    rows = [
        {"application": application, "number": number, "state": "OPEN"} | vars(hit)
        for number, hit in enumerate(hits, start=start + 1)
    ]
    if rows:
        tx.execute(screening_hits.insert(), rows)
    return [{name: value for name, value in row.items() if name != "application"} for row in rows]


def open_hits(tx: Tx, application: str) -> list[Any]:
    """The hits that hold an application now."""
    query = sa.select(screening_hits).where(
        screening_hits.c.application == application, screening_hits.c.state == "OPEN"
    )
    return list(tx.execute(query.order_by(screening_hits.c.number)).all())


def settle_hits(tx: Tx, application: str, state: str) -> None:
    """Write what two persons found about the open hits: ``CLEARED`` or ``CONFIRMED``."""
    own = (screening_hits.c.application == application) & (screening_hits.c.state == "OPEN")
    tx.execute(screening_hits.update().where(own).values(state=state))


def _read_csv(text: str) -> dict[str, list[dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
    try:
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise Rejected(f"The columns are {', '.join(COLUMNS)}.", code="bad_list", pointer="text")
        rows = list(reader)
    except csv.Error as error:
        raise Rejected(f"This is no CSV: {error}", code="bad_list", pointer="text") from error
    if not 0 < len(rows) <= NAMES_MAX:
        raise Rejected(f"A list has 1 to {NAMES_MAX} names.", code="too_large", pointer="text")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for number, row in enumerate(rows, start=2):
        values = {name: (row.get(name) or "").strip() for name in COLUMNS}
        is_whole = None not in row and values["id"] and values["source"] and (values["name_zh"] or values["name_en"])
        own = found.setdefault(values["source"], {})
        if not is_whole or values["id"] in own:
            raise Rejected(f"Line {number}: an id of its own, a name and a source.", code="bad_list", pointer="text")
        own[values["id"]] = {
            "entry": values["id"], "name_zh": values["name_zh"], "name_en": values["name_en"],
            "folded_zh": normalised(values["name_zh"]), "folded_en": normalised(values["name_en"]),
        }  # fmt: skip
    return {source: list(entries.values()) for source, entries in found.items()}


def _version(tx: Tx, lender: str, source: str) -> int:
    own = (screening_lists.c.lender == lender) & (screening_lists.c.source == source)
    return int(
        tx.execute(sa.select(sa.func.coalesce(sa.func.max(screening_lists.c.version), 0)).where(own)).scalar_one()
    )


def _current(lender: str) -> sa.Select[Any]:
    newest = (
        sa.select(screening_lists.c.source, sa.func.max(screening_lists.c.version).label("version"))
        .where(screening_lists.c.lender == lender)
        .group_by(screening_lists.c.source)
        .subquery()
    )
    return (
        sa.select(screening_names)
        .join(newest, (newest.c.source == screening_names.c.source) & (newest.c.version == screening_names.c.version))
        .where(screening_names.c.lender == lender)
    )
