"""``tracebond chain``: what goes to the chain, what is wrong with it, and what a person decides about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import sqlalchemy as sa

from contracts.clients import TransparencyLogClient
from contracts.deploy import save_deployment
from core.errors import Rejected, Unavailable
from ledger import chain_book as book
from ledger.anchor import last_anchor, last_final_anchor, unfinal_count
from ledger.chain_alarms import PERSON_CLEARS, clear_alarm, is_credit_stopped, open_alarms
from ledger.chain_logs import log_lines
from ledger.chain_succession import rotate_publisher
from ledger.chain_tx import resume_account
from ledger.chain_tx_tables import chain_tx
from ledger.tables import checkpoints
from tracebond.enrol import Enrolment
from tracebond.loops import now_ms
from tracebond.parts import Parts, open_parts
from tracebond.settings import load_settings

_WEI = 10**18
_DATA = click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder (default: ./var).")


@contextmanager
def opened(data: Path | None) -> Iterator[Parts]:
    """The parts of a data folder, closed at the end."""
    parts = open_parts(load_settings(data=data))
    try:
        yield parts
    finally:
        parts.close()


@click.group()
def chain() -> None:
    """The chain under the log: anchors, accounts, alarms.

    These commands work beside a running server, and without one.
    """


@chain.command()
@_DATA
def status(data: Path | None) -> None:
    """Show the chain, the log on the contract, and how far the anchors have come."""
    with opened(data) as parts:
        found = parts.deployment
        with parts.db.reading() as tx:
            size = tx.execute(sa.select(sa.func.max(checkpoints.c.size))).scalar_one() or 0
            last, final, unfinal = last_anchor(tx), last_final_anchor(tx), unfinal_count(tx)
            lines, alarms, is_stopped = log_lines(tx), open_alarms(tx), is_credit_stopped(tx)
        rows = [
            ("chain", f"{parts.chain.description}, id {found.chain_id}, genesis {found.genesis_hash}"),
            ("log contract", found.log_contract),
            ("log", f"{found.log_id}, origin {found.origin}"),
            ("checkpoint", f"size {size}"),
            ("anchored", "nothing" if last is None else f"size {last.size}, {last.state}"),
            ("final", "nothing" if final is None else f"size {final.size}, {_when(final.created_ms)}"),
            ("backlog", f"{size - (0 if final is None else final.size)} leaves under no final anchor"),
            ("unfinal", f"{unfinal} anchors"),
            ("alarms", f"{len(alarms)} open" + (", new credit is stopped" if is_stopped else "")),
        ]
        try:
            head = TransparencyLogClient(parts.chain, found.log_contract).log_at(found.log_id)
            height = f"block {parts.chain.block_number()}, final {parts.chain.final_block_number()}"
            rows.append(("contract", f"size {head.size}" + (", FROZEN" if head.is_frozen else "")))
            rows.append(("height", height))
        except Unavailable as error:
            rows.append(("contract", f"unknown: {error.message}"))
        for name, text in rows:
            click.echo(f"{name:13} {text}")
        for line in lines[:-1]:
            click.echo(f"{'frozen':13} log {line.log_id} at size {line.last_good}: {line.reason}")


@chain.command("alarms")
@_DATA
def alarms_(data: Path | None) -> None:
    """List the open alarms; those with a star wait for a person and stop new credit."""
    with opened(data) as parts, parts.db.reading() as tx:
        found = open_alarms(tx)
    for alarm in found:
        star = "*" if alarm.code in PERSON_CLEARS else " "
        click.echo(f"{star} {alarm.code:16} {alarm.account or '-':14} {_when(alarm.raised_ms)}  {alarm.detail}")
    if not found:
        click.echo("No alarm is open.")


@chain.command("clear")
@_DATA
@click.argument("alarm")
@click.option("--account", help="Where several accounts have it.")
def clear(data: Path | None, alarm: str, account: str | None) -> None:
    """Close ALARM after its cause was dealt with; it opens again if the cause is still there."""
    with opened(data) as parts, parts.db.transaction() as tx:
        found = [one for one in open_alarms(tx) if one.code == alarm and account in (None, one.account)]
        if not found:
            raise Rejected(f"No alarm {alarm} is open; see `tracebond chain alarms`.", code="unknown_alarm")
        if len(found) > 1:
            names = ", ".join(one.account for one in found)
            raise Rejected(f"Several accounts have this alarm: {names}. Name one with --account.", code="several")
        if alarm == "foreign_nonce":
            raise Rejected(
                f"Let the account go on instead: `tracebond chain resume {found[0].account}`.", code="use_resume"
            )
        if alarm == "log_frozen":
            raise Rejected("Go on with a successor log instead: `tracebond log successor`.", code="use_successor")
        deployment, _ = book.current_deployment(tx)
        clear_alarm(tx, deployment, alarm, account=found[0].account, now_ms=now_ms())
    click.echo(f"cleared {alarm}")


@chain.command()
@_DATA
@click.argument("account")
def resume(data: Path | None, account: str) -> None:
    """Let ACCOUNT sign again after a chain_tx that was not ours used its nonce.

    Replace the key first if it may be in other hands. What was lost is sent again; anchors are made anew.
    """
    with opened(data) as parts:
        nonce = resume_account(parts.db, parts.chain, account, now_ms=now_ms())
    click.echo(f"{account} goes on from nonce {nonce}")


@chain.command("accounts")
@_DATA
def accounts_(data: Path | None) -> None:
    """List the sending accounts: address, next nonce, balance, what waits."""
    with opened(data) as parts:
        with parts.db.reading() as tx:
            deployment, _ = book.current_deployment(tx)
            known = {one.name: one for one in book.accounts(tx, deployment)}
            waiting = {
                name: tx.execute(
                    sa.select(sa.func.count()).where(
                        chain_tx.c.deployment == deployment,
                        chain_tx.c.account == name,
                        chain_tx.c.state.in_(("queued", "sent", "mined")),
                    )
                ).scalar_one()
                for name in known
            }
        for name in sorted({*known, "admin", parts.deployment.publisher_account, "pauser"}):
            address = parts.signer.address(name)
            row = known.get(name)
            state = "halted" if row is not None and row.is_halted else f"{waiting.get(name, 0)} waiting"
            nonce = "-" if row is None else str(row.next_nonce)
            ether = parts.chain.balance(address) / _WEI
            click.echo(f"{name:20} {address}  nonce {nonce:>6}  {ether:>12.6f} ETH  {state}")


@chain.command()
@_DATA
@click.argument("account")
@click.option("--ether", type=click.FloatRange(min=0, min_open=True, max=1_000), default=1.0, show_default=True)
def fund(data: Path | None, account: str, ether: float) -> None:
    """Send ETHER from admin to ACCOUNT, which must have a key here already."""
    with opened(data) as parts:
        if account not in parts.signer.names():
            raise Rejected(f"There is no account {account} here; see `tracebond chain accounts`.", code="no_account")
        address = parts.signer.address(account)
        stamp = now_ms()
        with parts.db.transaction() as tx:
            wei = int(ether * _WEI)
            ident = book.enqueue_funding(tx, address=address, value=wei, reference=f"hand/{stamp}", now_ms=stamp)
        waiter(parts).wait_final([ident])
        click.echo(f"{account} ({address}) has {parts.chain.balance(address) / _WEI:.6f} ETH")


@chain.command("rotate-publisher")
@_DATA
def rotate(data: Path | None) -> None:
    """Give the right to anchor to a new key, on the same log.

    Where somebody has anchored with the old one already, use `tracebond log freeze` and `successor` instead.
    """
    with opened(data) as parts:
        found, is_done = rotate_publisher(
            parts.db, parts.chain, parts.signer, now_ms=now_ms(), wait=waiter(parts).wait_final
        )
        save_deployment(parts.settings.data.absolute(), found)
        click.echo(f"published by {found.publisher_account} ({found.publisher}) from now on")
        if not parts.chain.is_development:
            click.echo(f"fund {found.publisher} so that it can anchor")
        if not is_done:
            click.echo("chain_txs of the old key are still under way; they end by themselves")


def waiter(parts: Parts) -> Enrolment:
    """Waits for chain_txs, and sends them where no server does; any number of senders may be alive."""
    sender = parts.sender()
    return Enrolment(parts, lambda: sender.step(now_ms()))


def _when(ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
