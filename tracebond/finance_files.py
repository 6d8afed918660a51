"""``tracebond finance`` with files: exports, case files, price feeds, ISO 20022 messages."""

import getpass
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click

from core.canonical import b64u, sha256
from core.errors import Rejected
from core.identifiers import org_id
from core.notes import Verifier
from finance import periods
from finance.case import sign_case
from finance.case_check import check_case, report_json, report_text
from finance.exports import FORMATS, KINDS, export
from finance.iso20022 import camt, colr, pain
from finance.model import Actor
from finance.policy import Policy, load_policy
from finance.prices import import_prices, preview_prices, price_lines
from ledger.database import Tx
from ledger.keyfiles import KeyFiles
from tracebond.loops import now_s
from tracebond.parts import open_books
from tracebond.settings import Settings, load_settings

_DATA = click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder (default: ./var).")
_LENDER = click.option("--lender", required=True, help="The bank's GLN.")
_OUT = click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
_FILE = click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))


class _Books:
    """The policy under which a command of the command line is logged."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy


def install_files(group: click.Group) -> None:
    """Add the commands to ``tracebond finance``."""
    for one in (export_file, case_file, check_case_file, prices_file, message_file, notifications_file,
                close_period_command):  # fmt: skip
        group.add_command(one)


@click.command("export")
@_DATA
@click.argument("kind", type=click.Choice(KINDS))
@_LENDER
@click.option("--format", "form", type=click.Choice(FORMATS), required=True)
@click.option("--lang", type=click.Choice(["en", "zh"]), default="en", help="Language of the heads.")
@_OUT
def export_file(data: Path | None, kind: str, lender: str, form: str, lang: str, out: Path) -> None:
    """Write one table of a bank (KIND) as CSV or XLSX; a file that is there is replaced once the new one is whole."""
    org = org_id(lender)
    with open_books(load_settings(data=data)) as db, db.reading() as tx, _replacing(out) as file:
        export(tx, kind, org, form=form, file=file, now=now_s(), lang=lang)
    click.echo(f"{kind} of {org} is in {out}")


@click.command("case")
@_DATA
@click.argument("application")
@_LENDER
@_OUT
def case_file(data: Path | None, application: str, lender: str, out: Path) -> None:
    """Write the case of an APPLICATION as one file, signed by the operator's record key."""
    settings = load_settings(data=data)
    sign = case_signer(settings, KeyFiles(settings.data.absolute() / "keys"))
    if sign is None:
        raise Rejected("This data folder holds no operator's keys.", code="no_operator_key")
    with open_books(settings) as db, db.reading() as tx:
        signed = sign(tx, application, org_id(lender), now_s())
    with _replacing(out) as file:
        file.write(signed)
    click.echo(f"the case of {application} is in {out}; check it with: tracebond finance check-case {out}")


def case_signer(settings: Settings, keys: KeyFiles) -> Callable[[Tx, str, str, int], bytes] | None:
    """Signs a case by application, lender and unix seconds, for command line and web pages alike.

    None where the operator's keys are not held.
    """
    if not keys.has("operator") or not keys.has("checkpoint"):
        return None

    def sign(tx: Tx, application: str, lender: str, now: int) -> bytes:
        return sign_case(
            tx, application, lender=lender, operator=org_id(settings.operator_gln), key=keys.operator,
            log=Verifier(settings.origin, keys.checkpoint.public), now=now,
        )  # fmt: skip

    return sign


@click.command("check-case")
@_FILE
@click.option("--key", help="Thumbprint of the operator's record key, as the contract has it.")
@click.option("--log", help="The log's verifier key: name+hash+base64.")
@click.option("--json", "is_json", is_flag=True, help="Print the report as JSON.")
def check_case_file(file: Path, key: str | None, log: str | None, is_json: bool) -> None:
    """Check a case FILE without database, network or chain. Exits 1 when anything in it is wrong."""
    report = check_case(file.read_bytes(), key=key, log=log)
    click.echo(report_json(report) if is_json else report_text(report))


@click.command("prices")
@_DATA
@_FILE
@_LENDER
@click.option("--apply", "is_applied", is_flag=True, help="Take the file; without it, it is looked at only.")
def prices_file(data: Path | None, file: Path, lender: str, is_applied: bool) -> None:
    """Look at a price FILE (CSV), row by row, and with --apply take it whole.

    Exits 1 when a row is refused; then nothing is taken.
    """
    raw, policy, org = file.read_bytes(), load_policy(), org_id(lender)
    with open_books(load_settings(data=data)) as db:
        with db.reading() as tx:
            rows = preview_prices(tx, policy, org, raw, now=now_s())
        click.echo("\n".join(price_lines(rows)))
        if any(row.code for row in rows):
            raise SystemExit(1)
        if is_applied:
            with db.transaction() as tx:
                done = import_prices(
                    tx, _Books(policy), _clerk(org), data=raw, key=_key(raw), reason=f"price file {file.name}",
                    now=now_s(),
                )  # fmt: skip
            click.echo(f"{done['quotes']} prices were taken")


@click.command("message")
@_DATA
@click.argument("kind", type=click.Choice(["draw", "margin-return", "surplus", "margin-call"]))
@click.argument("ident")
@_LENDER
@_OUT
def message_file(data: Path | None, kind: str, ident: str, lender: str, out: Path) -> None:
    """Write an ISO 20022 message: pain.001 of a draw (IDENT is the loan), a margin return (the journal entry's number)
    or a surplus (the sale); colr.003 of a margin call (the call).
    """
    org = org_id(lender)
    makers: dict[str, Callable[[Tx], bytes]] = {
        "draw": lambda tx: pain.draw_order(tx, org, ident),
        "margin-return": lambda tx: pain.margin_order(tx, org, _number(ident)),
        "surplus": lambda tx: pain.surplus_order(tx, org, ident),
        "margin-call": lambda tx: colr.margin_call_message(tx, org, ident),
    }
    with open_books(load_settings(data=data)) as db, db.reading() as tx:
        message = makers[kind](tx)
    with _replacing(out) as file:
        file.write(message)
    click.echo(f"the message is in {out}")


@click.command("notifications")
@_DATA
@_FILE
@_LENDER
def notifications_file(data: Path | None, file: Path, lender: str) -> None:
    """Book the credits of a camt.054 FILE as repayments; what cannot be booked waits on the bank's reports page."""
    raw, org = file.read_bytes(), org_id(lender)
    with open_books(load_settings(data=data)) as db, db.transaction() as tx:
        done = camt.import_notifications(
            tx, _Books(load_policy()), _clerk(org), data=raw, key=_key(raw), reason=f"file {file.name}", now=now_s()
        )
    click.echo(json.dumps(done, indent=1))


@click.command("close-period")
@_DATA
@_LENDER
@click.option("--until", required=True, help="The last day of the period, YYYY-MM-DD.")
def close_period_command(data: Path | None, lender: str, until: str) -> None:
    """Propose to close a bank's books up to a day. A checker of the bank closes them, on its page /bank/books.

    Closing takes two persons, and the command line is one of them at most.
    """
    org = org_id(lender)
    with open_books(load_settings(data=data)) as db, db.transaction() as tx:
        asked = periods.propose_close_period(
            tx, _Books(load_policy()), _clerk(org), until=until, key=f"close-period/{until}/{now_s()}",
            reason=f"close the books until {until}", now=now_s(),
        )  # fmt: skip
    click.echo(f"closing {org} until {until} is proposed ({asked['request']}); a checker closes on /bank/books")


def _clerk(org: str) -> Actor:
    # Whoever may run this command on the server is named as that; four eyes never count it as a person of the bank.
    return Actor("command-line", getpass.getuser(), org, frozenset({"bank_maker"}))


def _key(raw: bytes) -> str:
    return f"file/{b64u(sha256(raw))}"


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Rejected("A journal entry is known by its number.", code="bad_number", pointer="ident")
    return int(text)


@contextmanager
def _replacing(out: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when it is whole; nothing is left of it after an error."""
    handle, name = tempfile.mkstemp(dir=out.absolute().parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.replace(name, out)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
