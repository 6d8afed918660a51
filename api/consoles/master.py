"""Master records of an organisation: itself, its places, its products, and who owns goods."""

from typing import Any, Final

import sqlalchemy as sa
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api.consoles.commands import Whole
from api.consoles.common import done, show
from api.consoles.records import desk_of
from api.forms import Input, read_input
from api.identity import Role
from api.policy import FACTORY, GOODS_STAFF, Routes, identity
from api.services import Services
from core.canonical import b64u
from core.errors import Rejected
from core.identifiers import canonical
from ledger.masterdata import fact
from ledger.tables import masters

FACTS: Final = ("party", "place", "product", "ownership")
ROWS_MAX: Final = 500


class MasterIn(Input):
    """A fact about a thing; only the members that fit the fact count, an empty one is left out."""

    fact: str
    subject: str = ""
    name_en: str = ""
    name_zh: str = ""
    role: str = ""
    address: str = ""
    lat: str = ""
    lon: str = ""
    category: str = ""
    shelf_life_days: Whole | None = None
    unit: str = ""
    temperature_min: str = ""
    temperature_max: str = ""
    owner: str = ""

    def value(self) -> dict[str, Any]:
        """The record's value: the members of this fact that were given.

        Raises:
            Rejected: ``bad_fact``: a member that this fact does not have.
        """
        given = self.model_dump(exclude={"fact", "subject"})
        told = {name: member for name, member in given.items() if member not in ("", None)}
        for name in told:
            if name not in MEMBERS[self.fact]:
                raise Rejected(f"A fact {self.fact} has no {name}.", code="bad_fact", pointer=f"/{name}")
        if "owner" in told:
            told["owner"] = canonical(str(told["owner"]))
        return told


MEMBERS: Final[dict[str, tuple[str, ...]]] = {
    "party": ("name_en", "name_zh", "role", "address"),
    "place": ("name_en", "name_zh", "lat", "lon", "address"),
    "product": (
        "name_en", "name_zh", "category", "shelf_life_days", "unit", "temperature_min", "temperature_max",
    ),
    "ownership": ("owner",),
}  # fmt: skip


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/factory/master", listed, GOODS_STAFF, tags=["records"])
    routes.post("/factory/master", write, FACTORY, body=MasterIn, tags=["records"])


def listed(request: Request) -> Response:
    """The newest of each fact that your organisation has told, with its place in the log."""
    services: Services = request.app.state.services
    who = identity(request)
    with services.db.reading() as tx:
        newest = sa.select(sa.func.max(masters.c.leaf)).where(masters.c.org == who.org)
        newest = newest.group_by(masters.c.subject, masters.c.fact)
        query = sa.select(masters.c.subject, masters.c.fact, masters.c.leaf).where(masters.c.leaf.in_(newest))
        rows = [
            {"subject": row.subject, "fact": row.fact, "leaf": row.leaf, "value": fact(tx, row.subject, row.fact)}
            for row in tx.execute(query.order_by(masters.c.fact, masters.c.subject).limit(ROWS_MAX))
        ]
    values = {
        "rows": rows, "facts": FACTS, "members": MEMBERS, "org": who.org, "may_write": who.has(Role.FACTORY),
        "written": request.query_params.get("written", "")[:43],
    }  # fmt: skip
    return show(request, "master.html", values)


async def write(request: Request) -> Response:
    """Tell a fact: a `master` record signed for your organisation enters the log."""
    given = await read_input(request, MasterIn)
    if given.fact not in FACTS:
        raise Rejected(f"fact is one of {', '.join(FACTS)}.", code="invalid_field", pointer="/fact")
    services: Services = request.app.state.services
    org = identity(request).org
    subject = canonical(given.subject) if given.subject else org
    members = {"subject": subject, "fact": given.fact, "value": given.value()}

    def sign() -> bytes:
        with services.db.transaction() as tx:
            return desk_of(services).claims.write(tx, org, "master", members)

    record_id = b64u(await run_in_threadpool(sign))
    return done(request, f"/factory/master?written={record_id}", {"record": record_id})
