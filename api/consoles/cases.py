"""Commands around a loan: consent, ways out of an application, cover, corrections. Each has its own POST.

A row of ``_ROWS`` is a route: its path, who may call it, the body, the command, and the name under which the command
takes the id in the path.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api.consoles.commands import Command, Names, Run, Whole, fields, run
from api.consoles.common import done
from api.forms import read_input
from api.policy import BORROWER, Policy, Routes
from finance import consents


class ConsentIn(Command):
    """Who may use data of which sources, for what, how long."""

    lender: str
    purpose: str
    sources: Names
    days: Whole


@dataclass(frozen=True)
class _Row:
    path: str
    policy: Policy
    body: type[Command]
    command: Run
    takes: str = ""
    summary: str = ""


_ROWS: Final = (
    _Row("/factory/consents", BORROWER, ConsentIn, consents.grant_consent, "", "Let a bank use data"),
    _Row("/factory/consents/{id}/withdraw", BORROWER, Command, consents.withdraw_consent, "consent",
         "Take a consent back"),
)  # fmt: skip


def install(routes: Routes) -> None:
    """Add the routes."""
    for row in _ROWS:
        is_bank = row.path.startswith("/bank/")
        name = row.command.__name__
        routes.post(
            row.path, _handler(row), row.policy, body=row.body, tags=["bank" if is_bank else "goods side"],
            summary=row.summary, name=name, operation_id=f"{'bank' if is_bank else 'goods'}_{name}",
        )  # fmt: skip


def _handler(row: _Row) -> Callable[..., Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        return await _run(request, row, {})

    async def handle_one(request: Request, id: str) -> Response:  # noqa: A002 - the path's own word
        return await _run(request, row, {row.takes: id})

    return handle_one if row.takes else handle


async def _run(request: Request, row: _Row, subject: dict[str, str]) -> Response:
    given = await read_input(request, row.body)
    name = row.command.__name__
    result = await run_in_threadpool(run, request, given, name, row.command, **subject, **fields(given))
    back = "/bank" if row.path.startswith("/bank/") else "/factory"
    return done(request, back, result)
