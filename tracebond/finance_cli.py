"""``tracebond finance``: the formulas as tools for people."""

from pathlib import Path

import click

from finance.tool import borrowing_base_text, day_count_text, schedule_text


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
