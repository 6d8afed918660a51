"""An organisation's devices: list, one device, claim codes, import from a file, rotation, end, and asking again."""

from typing import Any, Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api import pages
from api.consoles import device_rows
from api.consoles.claims import not_found
from api.consoles.commands import Flag, Whole
from api.consoles.common import done, plain, show
from api.consoles.records import desk_of
from api.errors import NotFound
from api.forms import Input, is_form, read_input
from api.identity import Role
from api.items import json_response
from api.policy import FACTORY, GOODS_STAFF, Routes, identity
from api.services import Services
from core.errors import Conflict, Rejected, Unavailable
from core.identifiers import gln_of
from ingest import quarantine
from ingest.claims import codes_of, make_codes, revoke_code, unsigned_claims
from ingest.enrolment import Rows, Wanted, read_jwk, read_rows, scope_of
from ingest.resend import command
from ingest.topics import device_name
from ledger.keys import key_info

HOUR_MS: Final = 3_600_000
_SHOWN_MAX: Final = 200
_RESEND_MAX: Final = 10_000


class ScopeIn(Input):
    """What a key may sign; empty does not limit. Lists part by spaces, commas or |."""

    steps: str = ""
    products: str = ""
    places: str = ""
    rate_per_s: Whole | None = None

    def scope(self) -> dict[str, Any]:
        """The scope as a record holds it."""
        names = (self.steps, self.products, self.places)
        steps, products, places = (text.replace(",", " ").replace("|", " ").split() for text in names)
        return scope_of(steps=steps, products=products, places=places, rate_per_s=self.rate_per_s)


class EnrolIn(ScopeIn):
    """A device whose public key is at hand."""

    giai: str
    jwk: str


class CodesIn(ScopeIn):
    """Claim codes to be made: for any device, or for one."""

    count: Whole = 1
    giai: str = ""
    hours: Whole = 168


class ImportIn(Input):
    """The text of a CSV file; ``apply`` enrols, else it is only looked at."""

    csv: str
    apply: Flag = False


class EndIn(Input):
    """Why a key ends, and its last good message where that is not the newest."""

    reason: str
    last: str = ""
    nothing_good: Flag = False


class RotateIn(Input):
    """The device's next public key; left out, a code by which it claims with a new key."""

    jwk: str = ""


class ResendIn(Input):
    """Which messages the device is asked for again."""

    first: Whole
    last: Whole


class EmptyIn(Input):
    """Nothing."""


def install(routes: Routes) -> None:
    """Add the routes."""
    tags: list[Any] = ["devices"]
    routes.get("/factory/devices", listed, GOODS_STAFF, tags=tags)
    routes.post("/factory/devices", enrol, FACTORY, body=EnrolIn, tags=tags)
    routes.get("/factory/devices/codes", codes, GOODS_STAFF, tags=tags)
    routes.post("/factory/devices/codes", new_codes, FACTORY, body=CodesIn, tags=tags)
    routes.post("/factory/devices/codes/{id}/revoke", revoke, FACTORY, body=EmptyIn, tags=tags)
    routes.get("/factory/devices/import", import_form, FACTORY, tags=tags)
    routes.post("/factory/devices/import", import_file, FACTORY, body=ImportIn, tags=tags)
    routes.get("/factory/devices/{kid}", device, GOODS_STAFF, tags=tags)
    routes.post("/factory/devices/{kid}/end", end, FACTORY, body=EndIn, tags=tags)
    routes.post("/factory/devices/{kid}/rotate", rotate, FACTORY, body=RotateIn, tags=tags)
    routes.post("/factory/devices/{kid}/password", password, FACTORY, body=EmptyIn, tags=tags)
    routes.post("/factory/devices/{kid}/resend", resend, FACTORY, body=ResendIn, tags=tags)


def listed(request: Request, q: str = "", state: str = "", after: str = "") -> Response:
    """Your organisation's devices: last seen, clock, gaps, battery and firmware where told, last receipt, state."""
    services: Services = request.app.state.services
    who = identity(request)
    if state and state not in device_rows.STATES:
        raise Rejected(f"state is one of {', '.join(device_rows.STATES)}.", code="bad_parameter", pointer="state")
    with services.db.reading() as tx:
        rows, more = device_rows.devices(tx, who.org, text=q.strip()[:100], state=state, after=after[:200])
        counts = device_rows.counts(tx, who.org)
    values = {
        "devices": rows, "after": more, "q": q, "state": state, "states": device_rows.STATES, "counts": counts,
        "may_write": who.has(Role.FACTORY), "now_ms": services.now_ms(),
    }  # fmt: skip
    return show(request, "devices.html", values)


def device(request: Request, kid: str) -> Response:
    """One device: keys and their gaps, equivocations, refusals, newest messages and readings, what was not taken."""
    services: Services = request.app.state.services
    who = identity(request)
    with services.db.reading() as tx:
        iss = device_rows.iss_of(tx, who.org, kid)
        if iss is None:
            raise NotFound("There is no such device.")
        keys = device_rows.keys_of_device(tx, who.org, iss)
        name, kids = device_name(who.org, iss), [key.kid for key in keys]
        values: dict[str, Any] = {
            "device": device_rows.device(tx, who.org, iss),
            "keys": keys,
            "messages": device_rows.messages_of(tx, [key.key_no for key in keys]),
            "refusals": device_rows.refusals_of(tx, kids),
            "equivocations": device_rows.equivocations_of(tx, kids),
            "held": quarantine.search(tx, state=None, gln=name.gln, device=name.device, limit=20),
        }
    values |= {"topic": name.events, "may_write": who.has(Role.FACTORY), "now_ms": services.now_ms()}
    values |= {"asked": request.query_params.get("asked", "")[:40]}
    return show(request, "device.html", values)


async def enrol(request: Request) -> Response:
    """Enrol one device by its public key; a `key` record signed for your organisation enters the log."""
    given = await read_input(request, EnrolIn)
    org = identity(request).org
    wanted = Wanted(gln_of(org), given.giai, read_jwk(given.jwk), given.scope())
    [one] = await run_in_threadpool(_enrol, request, [(1, wanted)])
    return done(request, "/factory/records?t=key", {"kid": one.kid, "giai": one.giai})


def codes(request: Request) -> Response:
    """Claim codes of your organisation, and claims whose record it has to sign itself."""
    services: Services = request.app.state.services
    who = identity(request)
    with services.db.reading() as tx:
        rows = codes_of(tx, who.org, now_ms=services.now_ms())
        waiting = [row.kid for row in unsigned_claims(tx, who.org)]
    desk = desk_of(services)
    unsigned = [desk.claims.standing(kid) for kid in waiting]
    values = {
        "codes": rows, "unsigned": [one for one in unsigned if one.state == "unsigned"],
        "may_write": who.has(Role.FACTORY), "is_kept_here": desk.claims.organisation_key(who.org) is not None,
    }  # fmt: skip
    return show(request, "device_codes.html", values)


async def new_codes(request: Request) -> Response:
    """Make claim codes; they are shown this once."""
    given = await read_input(request, CodesIn)
    services: Services = request.app.state.services
    who = identity(request)

    def make() -> list[str]:
        with services.db.transaction() as tx:
            return make_codes(
                tx, org=who.org, count=given.count, giai=given.giai or None, scope=given.scope(), made_by=who.login,
                now_ms=services.now_ms(), life_ms=given.hours * HOUR_MS, random=services.random,
            )  # fmt: skip

    made = await run_in_threadpool(make)
    return _once(request, {"codes": [{"giai": given.giai, "code": code} for code in made]})


async def revoke(request: Request, id: int) -> Response:  # noqa: A002 - the path's own word
    """Take a code back."""
    await read_input(request, EmptyIn)
    services: Services = request.app.state.services
    org = identity(request).org

    def take_back() -> None:
        with services.db.transaction() as tx:
            revoke_code(tx, id, org=org, now_ms=services.now_ms())

    try:
        await run_in_threadpool(take_back)
    except Conflict as error:
        raise NotFound("There is no such code.") from error
    return done(request, "/factory/devices/codes", {"state": "revoked"})


async def import_form(request: Request) -> Response:
    """A file of devices: preview, then import."""
    return show(request, "device_import.html", {"rows": None, "csv": "", "made": [], "shown_max": _SHOWN_MAX})


async def import_file(request: Request) -> Response:
    """Read a CSV file of devices: a preview with each bad row's reason, or, with `apply`, all of them or none.

    A row with a public key gets its `key` record; one without gets a claim code for that very device.
    """
    given = await read_input(request, ImportIn)
    org = identity(request).org
    rows: Rows = read_rows(given.csv, gln=gln_of(org))
    made: list[Any] = []
    if given.apply:
        if rows.faults:
            raise Rejected(str(rows.faults[0]), code=rows.faults[0].code, pointer=f"/lines/{rows.faults[0].line}")
        made = await run_in_threadpool(_enrol, request, list(rows.devices))
    values = {"rows": rows, "csv": given.csv, "made": made, "shown_max": _SHOWN_MAX}
    if is_form(request):
        return pages.page(request, "device_import.html", values)
    return json_response({"rows": plain(rows), "made": plain(made)})


async def end(request: Request, kid: str) -> Response:
    """End a key: an `end` record names its last good message, and the broker shuts the device out."""
    given = await read_input(request, EndIn)
    desk, org = desk_of(request.app.state.services), identity(request).org
    if given.last and given.nothing_good:
        raise Rejected("Name a last good message or say that nothing is good.", code="invalid_field", pointer="/last")
    try:
        last, seq = await run_in_threadpool(
            lambda: desk.end(
                kid, org=org, reason=given.reason, last=given.last or None, is_nothing_good=given.nothing_good
            )
        )
    except Rejected as error:
        raise not_found(error) from error
    return done(request, f"/factory/devices/{kid}", {"kid": kid, "last": last, "seq": seq})


async def rotate(request: Request, kid: str) -> Response:
    """Give the device a new key of the same scope: by its public key at once, else by a code that it claims with."""
    given = await read_input(request, RotateIn)
    services: Services = request.app.state.services
    desk, who = desk_of(services), identity(request)
    if given.jwk:
        jwk = read_jwk(given.jwk)
        try:
            new = await run_in_threadpool(lambda: desk.rotate(kid, jwk, org=who.org))
        except Rejected as error:
            raise not_found(error) from error
        return done(request, "/factory/records", {"kid": new})

    def make() -> tuple[str, str]:
        with services.db.transaction() as tx:
            iss = device_rows.iss_of(tx, who.org, kid)
            if iss is None:
                raise NotFound("There is no such device.")
            giai = device_rows.device(tx, who.org, iss).giai
            [code] = make_codes(
                tx, org=who.org, giai=giai, made_by=who.login, now_ms=services.now_ms(), random=services.random
            )
            return giai, code

    giai, code = await run_in_threadpool(make)
    return _once(request, {"codes": [{"giai": giai, "code": code}]})


async def password(request: Request, kid: str) -> Response:
    """Give the device a new broker password, shown this once; the one before it stops working."""
    await read_input(request, EmptyIn)
    services: Services = request.app.state.services
    org = identity(request).org
    with services.db.reading() as tx:
        if device_rows.iss_of(tx, org, kid) is None:
            raise NotFound("There is no such device.")
    connection = await run_in_threadpool(desk_of(services).open_connection, kid)
    return _once(request, {"connection": connection})


async def resend(request: Request, kid: str) -> Response:
    """Ask the device on its command topic to send messages again."""
    given = await read_input(request, ResendIn)
    services: Services = request.app.state.services
    org = identity(request).org
    with services.db.reading() as tx:
        if device_rows.iss_of(tx, org, kid) is None:
            raise NotFound("There is no such device.")
    await run_in_threadpool(_ask_again, services, kid, given.first, given.last)
    return done(
        request, f"/factory/devices/{kid}?asked={given.first}-{given.last}", {"asked": [given.first, given.last]}
    )


def _ask_again(services: Services, kid: str, first: int, last: int) -> None:
    """Ask for messages on the device's command topic; it sends the same bytes again, or nothing where it has them not.

    Raises:
        Rejected: ``invalid_field``. Unavailable: no broker here, or it takes nothing now.
    """
    if not 0 <= first <= last or last - first >= _RESEND_MAX:
        raise Rejected(f"At most {_RESEND_MAX} messages are asked for at once.", code="invalid_field", pointer="/last")
    with services.db.reading() as tx:
        key = key_info(tx, kid)
    if key is None:
        raise NotFound("There is no such device.")
    body = command(kid, first, last)
    if services.publish is None or not services.publish([(device_name(key.org, key.iss).commands, body)]):
        raise Unavailable("This process reaches no broker now; try again.", code="broker_away")


def _enrol(request: Request, wanted: list[tuple[int, Wanted]]) -> list[Any]:
    who = identity(request)
    return list(desk_of(request.app.state.services).enrol(who.org, wanted, made_by=who.login))


def _once(request: Request, values: dict[str, Any]) -> Response:
    """What is shown this once: codes or a connection."""
    if is_form(request):
        return pages.page(request, "device_once.html", {"codes": [], "connection": None} | values)
    return json_response(plain(values))
