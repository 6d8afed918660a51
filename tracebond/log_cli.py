"""``tracebond log``: follow one message, freeze the log on the contract, and go on with its successor."""

from pathlib import Path

import click

from contracts.deploy import save_deployment
from ledger.chain_logs import checked_reason
from ledger.chain_succession import freeze, plan_freeze, succeed
from tracebond.chain_cli import opened, waiter
from tracebond.loops import now_ms
from tracebond.trace_cli import trace

_DATA = click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder (default: ./var).")


@click.group()
def log() -> None:
    """The log: one message's way through it, and its life on the contract."""


log.add_command(trace)


@log.command("freeze")
@_DATA
@click.option("--last-good", type=click.IntRange(0), required=True, help="The last anchored size to keep; 0 for none.")
@click.option("--reason", required=True, help="Why, for those who read it later; kept for ever.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def freeze_(data: Path | None, last_good: int, reason: str, yes: bool) -> None:
    """End the log on the contract for ever; above --last-good its roots read zero.

    For when somebody else anchored with the publisher's key, or a wrong root was anchored. Nothing is lost here: our
    entries stay, and `tracebond log successor` anchors them again. Until then new credit is stopped.
    """
    checked_reason(reason)
    with opened(data) as parts:
        plan = plan_freeze(parts.db, parts.chain, last_good)
        click.echo(f"log {plan.log_id}: the contract holds size {plan.tip}; size {plan.last_good} is kept")
        if plan.cut:
            click.echo(f"{len(plan.cut)} of our anchors fall away: sizes {', '.join(map(str, plan.cut[:10]))}")
        click.echo(f"{plan.leaves} leaves of ours wait for the successor")
        if not yes:
            click.confirm("A freeze cannot be undone. Go on?", abort=True)
        freeze(parts.db, parts.chain, plan, reason=reason, now_ms=now_ms(), wait=waiter(parts).wait_final)
        click.echo(f"log {plan.log_id} is frozen at size {last_good}; open its successor: tracebond log successor")


@log.command()
@_DATA
@click.option("--keep-publisher", is_flag=True, help="The publisher's key is known to be safe; do not replace it.")
def successor(data: Path | None, keep_publisher: bool) -> None:
    """Open the successor of the frozen log and go on with it.

    It keeps the origin, so receipts of the frozen log bind it; it starts at the last good root, and the contract
    makes sure that it extends that. The publisher gets a new key before the successor is open.
    """
    with opened(data) as parts:
        found = succeed(
            parts.db, parts.chain, parts.signer, keep_publisher=keep_publisher, now_ms=now_ms(),
            wait=waiter(parts).wait_final,
        )  # fmt: skip
        save_deployment(parts.settings.data.absolute(), found)
        click.echo(f"log {found.log_id} goes on, published by {found.publisher_account} ({found.publisher})")
        if not parts.chain.is_development and not keep_publisher:
            click.echo(f"fund {found.publisher} so that it can anchor")
        click.echo("processes that started on the old log end themselves; start them again")
