"""``tracebond finance``: the formulas as tools for people."""

import json
from pathlib import Path

import click

from finance.applications import replay_decision
from finance.daycount import parse_date
from finance.eod import end_of_day
from finance.policy import load_policy
from finance.tool import borrowing_base_text, day_count_text, schedule_text
from tracebond.finance_files import install_files
from tracebond.loops import now_s
from tracebond.parts import open_books
from tracebond.settings import load_settings


@click.group()
def finance() -> None:
    """Day counts, schedules and borrowing bases, by the same code that the bank's desk runs."""


@finance.command("day-count")
@click.argument("start")
@click.argument("end")
@click.argument("convention")
def day_count(start: str, end: str, convention: str) -> None:
    """Print DAYS and FRACTION between two dates (YYYY-MM-DD).

    CONVENTION is 30/360, 30E/360, 30U/360, ACT/360, ACT/365F or ACT/ACT. The first day counts, the last does not.
    """
    click.echo(day_count_text(start, end, convention))


@finance.command()
@click.option("--principal", required=True, help="Amount with at most two decimals.")
@click.option("--rate", required=True, help="Percent a year.")
@click.option("--day-count", required=True, help="As in `finance day-count`.")
@click.option("--start", required=True, help="Date of the draw-down, YYYY-MM-DD.")
@click.option("--periods", required=True, help="Number of instalments.")
@click.option("--every", required=True, help="Length of a period: nD, nW or nM.")
@click.option("--kind", type=click.Choice(["equal_instalment", "bullet", "interest_only"]), default="equal_instalment")
def schedule(principal: str, rate: str, day_count: str, start: str, periods: str, every: str, kind: str) -> None:
    """Print a schedule as CSV: date,payment,interest,principal,balance."""
    text = schedule_text(
        principal=principal, rate=rate, day_count_name=day_count, start=start, periods=periods, every=every, kind=kind
    )
    click.echo(text.rstrip("\n"))


@finance.command("borrowing-base")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def borrowing_base(file: Path) -> None:
    """Print the borrowing base of FILE (JSON) with every step of its decision."""
    click.echo(borrowing_base_text(file.read_bytes()))


@finance.command()
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder (default: ./var).")
@click.option("--date", "day", required=True, help="The business date to end, YYYY-MM-DD.")
def eod(data: Path | None, day: str) -> None:
    """End the business date: interest and penalties, overdue states, provisions; then the next date begins.

    Days are ended one after the other. After a crash run it again: it goes on where it stopped. Exits 1 when a control
    account differs from its loans.
    """
    with open_books(load_settings(data=data)) as db:
        done = end_of_day(db, load_policy(), parse_date(day, pointer="date"), now=now_s(), progress=_progress)
    moved = ", ".join(f"{count} {event}" for event, count in sorted(done.moved.items())) or "no loan changed its state"
    click.echo(f"{done.closed} has ended: {done.loans} loans, {moved}; the business date is {done.next_date}")
    for lender, accounts in done.differences.items():
        for code, value in accounts.items():
            click.echo(f"{lender}: account {code} differs from its loans by {value.text()}", err=True)
    if done.differences:
        raise SystemExit(1)


@finance.command()
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder (default: ./var).")
@click.argument("decision")
def replay(data: Path | None, decision: str) -> None:
    """Compute the decision on an application again from its stored inputs and policy version, and print it.

    Exits 1 when it cannot be reproduced bit for bit.
    """
    with open_books(load_settings(data=data)) as db, db.reading() as tx:
        found = replay_decision(tx, decision)
    click.echo(json.dumps(found, indent=1, ensure_ascii=False))


def _progress(done: int, whole: int) -> None:
    click.echo(f"\r{done} of {whole} loans", err=True, nl=done >= whole)


install_files(finance)
