"""Forms that show first what a command will do.

The page shows the facts; the second page shows what the very command gives when it is run and taken back; the
confirmation carries a fingerprint of the facts, and is refused where they have changed since.
"""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, Final

import sqlalchemy as sa
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import ConfigDict

from api import pages
from api.auth.partners import all_partners, partner_named
from api.consoles import act_facts
from api.consoles.acts_table import BANK_ACTS, GOODS_ACTS, Act, Field
from api.consoles.bank import StaleView
from api.consoles.case_rows import proposals_of
from api.consoles.commands import actor_of, context_of, fresh_key, run_as
from api.consoles.common import done, plain, show
from api.errors import Forbidden, NotFound
from api.forms import Input, is_form, read_input
from api.items import json_response
from api.language import language_of
from api.policy import BANK_STAFF, GOODS_STAFF, Routes, identity
from api.problem import problem_of
from api.services import Services
from core.canonical import b64u
from core.errors import Rejected, TracebondError
from finance import tokens
from finance.tables import accounts, entries, postings
from finance.token_tables import tokens as tokens_table
from ledger.database import Tx

_SHANGHAI: Final = timezone(timedelta(hours=8))
_SHOWN: Final = frozenset({
    "state", "balance", "amount", "entry", "fee", "instalment", "interest", "principal", "overpaid", "surplus",
    "proceeds", "pledge",
    "application", "outcome", "guarantee", "mortgage", "claim", "children", "is_disputed", "left_total", "account",
    "hint", "version", "margin_cash",
})  # fmt: skip


class ActIn(Input):
    """A step of a form: the thing it acts on, the fields of the command, and at the end what was seen."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    __pydantic_extra__: dict[str, str]

    step: str = "preview"
    on: str = ""
    seen: str = ""
    key: str = ""
    reason: str = ""


class _TakenBack(Exception):
    """Raised to leave the transaction of a dry run, so that nothing of it stays."""


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/bank/do/{name}", bank_form, BANK_STAFF, tags=["bank"])
    routes.post("/bank/do/{name}", bank_step, BANK_STAFF, body=ActIn, tags=["bank"])
    routes.get("/factory/do/{name}", goods_form, GOODS_STAFF, tags=["goods side"])
    routes.post("/factory/do/{name}", goods_step, GOODS_STAFF, body=ActIn, tags=["goods side"])


def bank_form(request: Request, name: str, on: str = "") -> Response:
    """The facts about a thing and the fields of a command on it."""
    return _form(request, BANK_ACTS, name, on)


def goods_form(request: Request, name: str, on: str = "") -> Response:
    """The facts about a thing and the fields of a command on it."""
    return _form(request, GOODS_ACTS, name, on)


async def bank_step(request: Request, name: str) -> Response:
    """Show what a command would do, or do it over exactly what was seen."""
    return await run_in_threadpool(_step, request, BANK_ACTS, name, await read_input(request, ActIn))


async def goods_step(request: Request, name: str) -> Response:
    """Show what a command would do, or do it over exactly what was seen."""
    return await run_in_threadpool(_step, request, GOODS_ACTS, name, await read_input(request, ActIn))


def _form(request: Request, acts: Mapping[str, Act], name: str, on: str) -> Response:
    services: Services = request.app.state.services
    act = _act(request, acts, name)
    with services.db.reading() as tx:
        facts = _facts(request, tx, act, on)
        shown = _starting(tx, act, on, services.now_ms() // 1_000)
        partners = [one.name for one in all_partners(tx)] if any(f.kind == "partner" for f in act.fields) else []
        proposal = _proposal(request, tx, act, on)
    values = _page(request, act, name, on, facts) | {"given": shown, "partners": partners, "proposal": proposal}
    return show(request, "act.html", values)


def _step(request: Request, acts: Mapping[str, Act], name: str, given: ActIn) -> Response:
    services: Services = request.app.state.services
    act = _act(request, acts, name)
    texts = dict(given.__pydantic_extra__ or {})
    unknown = sorted(set(texts) - {field.name for field in act.fields})
    if unknown or given.step not in ("preview", "confirm"):
        raise Rejected("This form has no such field.", code="invalid_field", pointer=unknown[0] if unknown else "step")
    try:
        return _carry_on(request, act, name, given, texts)
    except TracebondError as error:
        if not is_form(request) or problem_of(error).status >= 500:
            raise
        return _again(request, services, act, name, given, texts, error)


def _carry_on(request: Request, act: Act, name: str, given: ActIn, texts: dict[str, str]) -> Response:
    services: Services = request.app.state.services
    actor, org = actor_of(identity(request)), identity(request).org
    with services.db.reading() as tx:
        values = _values(tx, act, texts)
        facts = _facts(request, tx, act, given.on)
        proposal = _proposal(request, tx, act, given.on)
        version = _version(tx, act, given.on)
    values |= _bound(act, given.on, proposal) | version
    if act.draw is not None:
        values[act.draw[0]] = services.random(act.draw[1])
    key = request.headers.get("idempotency-key", "") or given.key or fresh_key(services)
    seen = act_facts.fingerprint(act.subject, given.on, facts)

    def command(tx: Tx, ctx: Any, who: Any, **arguments: Any) -> dict[str, Any]:
        now_facts = act_facts.facts_of(tx, act.subject, given.on, org=org, lang=language_of(request))
        if given.seen and (now_facts is None or act_facts.fingerprint(act.subject, given.on, now_facts) != given.seen):
            raise StaleView()
        return act.run(tx, ctx, who, **arguments)

    if given.step == "confirm":
        if not given.seen:
            raise Rejected("Confirm what you have seen.", code="missing_field", pointer="seen")
        result = run_as(services, actor, name, _once(act, command), key=key, reason=given.reason, **values)
        return done(request, act.back.format(id=given.on), result)
    result, books = _tried(services, actor, act, key, given.reason, values, language_of(request))
    if not is_form(request):
        return json_response({"result": plain(result), "postings": books, "seen": seen})
    page = _page(request, act, name, given.on, facts) | {
        "given": texts, "reason": given.reason, "outcome": _outcome(result), "books": books, "seen": seen, "key": key,
        "proposal": proposal, "mode": "confirm",
    }  # fmt: skip
    return pages.page(request, "act.html", page)


def _once(act: Act, checked: Any) -> Any:
    """A repeated confirmation gives its stored answer: the facts have changed since, by the command itself."""

    def command(tx: Tx, ctx: Any, who: Any, **arguments: Any) -> dict[str, Any]:
        from finance.tables import command_keys

        known = (command_keys.c.org == who.org) & (command_keys.c.key == arguments["key"])
        if tx.execute(sa.select(command_keys.c.key).where(known)).first() is not None:
            return act.run(tx, ctx, who, **arguments)
        result: dict[str, Any] = checked(tx, ctx, who, **arguments)
        return result

    return command


def _tried(
    services: Services, actor: Any, act: Act, key: str, reason: str, values: Mapping[str, Any], lang: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the command gives and books, in a transaction that is taken back."""
    result: dict[str, Any] = {}
    books: list[dict[str, Any]] = []
    try:
        with services.db.transaction() as tx:
            before = tx.execute(sa.select(sa.func.max(entries.c.number))).scalar() or 0
            now = services.now_ms() // 1_000
            result = act.run(tx, context_of(services), actor, key=f"try/{key}"[:200], reason=reason, now=now, **values)
            books = _booked(tx, int(before), lang)
            raise _TakenBack
    except _TakenBack:
        return result, books


def _booked(tx: Tx, after: int, lang: str) -> list[dict[str, Any]]:
    query = (
        sa.select(entries.c.kind, postings.c.debit_minor, postings.c.credit_minor, accounts)
        .join(postings, postings.c.entry == entries.c.number)
        .join(accounts, accounts.c.code == postings.c.account)
        .where(entries.c.number > after)
        .order_by(entries.c.number, postings.c.line)
    )
    return [
        {"kind": row.kind, "account": row.code, "name": row.name_zh if lang == "zh" else row.name_en,
         "debit": int(row.debit_minor), "credit": int(row.credit_minor)}
        for row in tx.execute(query)
    ]  # fmt: skip


def _again(
    request: Request, services: Services, act: Act, name: str, given: ActIn, texts: dict[str, str],
    error: TracebondError,
) -> Response:  # fmt: skip
    """The form once more with what was entered, and the refusal beside its field."""
    problem, lang = problem_of(error), language_of(request)
    with services.db.reading() as tx:
        facts = _facts(request, tx, act, given.on)
        partners = [one.name for one in all_partners(tx)] if any(f.kind == "partner" for f in act.fields) else []
        proposal = _proposal(request, tx, act, given.on)
    said = pages.refusal_words(problem.code, problem.detail, lang)
    field = problem.pointer.strip("/").split("/")[0]
    known = {one.name for one in act.fields} | {"reason"}
    page = _page(request, act, name, given.on, facts) | {
        "given": texts, "reason": given.reason, "partners": partners, "proposal": proposal, "error": said,
        "error_field": field if field in known else "", "error_code": problem.code,
    }  # fmt: skip
    return pages.page(request, "act.html", page, status=problem.status)


def _page(request: Request, act: Act, name: str, on: str, facts: list[act_facts.Fact]) -> dict[str, Any]:
    services: Services = request.app.state.services
    is_bank = request.url.path.startswith("/bank/")
    return {
        "name": name, "on": on, "facts": facts, "fields": act.fields, "back": act.back.format(id=on),
        "is_bank": is_bank, "is_proposed": act.is_proposed, "approves": bool(act.proposal), "given": {}, "reason": "",
        "partners": [], "proposal": None, "error": "", "error_field": "", "error_code": "", "outcome": [],
        "books": [], "seen": act_facts.fingerprint(act.subject, on, facts), "key": fresh_key(services),
        "mode": "form",
    }  # fmt: skip


def _act(request: Request, acts: Mapping[str, Act], name: str) -> Act:
    act = acts.get(name)
    if act is None:
        raise NotFound("There is no such form.")
    if not act.policy.allows(identity(request)):
        raise Forbidden("Your role does not allow this.")
    return act


def _facts(request: Request, tx: Tx, act: Act, on: str) -> list[act_facts.Fact]:
    facts = act_facts.facts_of(tx, act.subject, on, org=identity(request).org, lang=language_of(request))
    if facts is None:
        raise NotFound("There is nothing here that you may act on.")
    return facts


def _proposal(request: Request, tx: Tx, act: Act, on: str) -> dict[str, Any] | None:
    return proposals_of(tx, identity(request).org, (act.proposal,)).get(on) if act.proposal else None


def _bound(act: Act, on: str, proposal: dict[str, Any] | None) -> dict[str, Any]:
    values: dict[str, Any] = {act.takes: on} if act.takes else {}
    if act.proposal:
        if proposal is None:
            raise Rejected("There is no such proposal.", code="no_such_proposal")
        values |= {"request": proposal["request"], "proposal": proposal["proposal"]}
        values |= {name: proposal["seen"][member] for name, member in act.seen}
    return values


def _version(tx: Tx, act: Act, on: str) -> dict[str, Any]:
    if act.run is not tokens.change_token:
        return {}
    return {"version": tx.execute(sa.select(tokens_table.c.version).where(tokens_table.c.id == on)).scalar() or 0}


def _starting(tx: Tx, act: Act, on: str, now: int) -> dict[str, str]:
    """What stands in the fields at first."""
    if act.run is tokens.change_token:
        row = tx.execute(sa.select(tokens_table).where(tokens_table.c.id == on)).one()
        return act_facts.controls_shown(row, _day_of)
    values = {field.name: field.value for field in act.fields if field.value}
    if any(field.name == "valid_from" for field in act.fields):
        values |= {"valid_from": _day_of(now), "valid_until": _day_of(now + 90 * 86_400)}
    return values


def _values(tx: Tx, act: Act, texts: Mapping[str, str]) -> dict[str, Any]:
    return {field.name: _value(tx, field, texts.get(field.name, "").strip()) for field in act.fields}


def _value(tx: Tx, field: Field, text: str) -> Any:
    if not text and field.is_needed:
        raise Rejected("This field is needed.", code="missing_field", pointer=field.name)
    if field.kind == "whole":
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise Rejected("Write a whole number.", code="bad_number", pointer=field.name)
        return int(text)
    if field.kind == "money":
        return text.replace(",", "")
    if field.kind == "names":
        return text.replace(",", " ").split()
    if field.kind == "flag":
        return text == "true"
    if field.kind == "choice" and text not in field.choices:
        raise Rejected("Choose one of the list.", code="invalid_field", pointer=field.name)
    if field.kind == "day":
        return _first_second(text, field.name)
    if field.kind == "digest":
        return b64u(bytes.fromhex(text)) if re.fullmatch(r"[0-9a-fA-F]{64}", text) else text
    if field.kind == "bids":
        return [_bid(line) for line in text.splitlines() if line.strip()]
    if field.kind == "partner":
        return tokens.partner_person(partner_named(tx, text).id)
    return text


def _bid(line: str) -> dict[str, str]:
    bidder, _, amount = line.strip().rpartition(" ")
    return {"bidder": bidder.strip(), "amount": amount.replace(",", "")}


def _first_second(text: str, name: str) -> int:
    try:
        found = date.fromisoformat(text)
    except ValueError as error:
        raise Rejected("Write a date as YYYY-MM-DD.", code="bad_date", pointer=name) from error
    return int(datetime(found.year, found.month, found.day, tzinfo=_SHANGHAI).timestamp())


def _day_of(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, tz=UTC).astimezone(_SHANGHAI).date().isoformat()


def _outcome(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The members of a result that say something to people."""
    return [
        (name, len(value) if name == "children" else value)
        for name, value in result.items()
        if name in _SHOWN and value is not None and not isinstance(value, list)
    ]
