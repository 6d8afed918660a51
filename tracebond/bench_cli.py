"""``tracebond bench``: figures that anybody can measure again."""

import importlib
import importlib.util
import sys
from pathlib import Path

import click

from tracebond.bench.report import Report

_MEANINGS = {
    "anchor": "gas of one anchor, beside a plain stored root and one transaction per event",
    "ledger": "sequencer, map, opening, proofs and bundles",
    "ingest": "signed messages through broker, pipeline and database",
    "epcis": "capture, event hash, queries and journeys",
    "finance": "decisions and end of day",
    "lookup": "consumer pages and JSON look-ups under load",
}
PARTS = {
    name: meaning
    for name, meaning in _MEANINGS.items()
    if importlib.util.find_spec(f"tracebond.bench.{name}") is not None
}


@click.command(epilog="Parts: " + "; ".join(f"{name} ({meaning})" for name, meaning in PARTS.items()) + ".")
@click.argument("part", type=click.Choice(sorted(PARTS)))
@click.option("--quick", is_flag=True, help="Small sizes, under a minute: shows that it runs, not how fast it is.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the rows to FILE.")
def bench(part: str, quick: bool, json_file: Path | None) -> None:
    """Measure PART on this machine and print its table.

    Each row was measured in this very run, with its ceiling and the naive way where there is one. Targets are those
    of the design for two cores; a missed one says NO. Exits 0 when every row was measured.
    """
    module = importlib.import_module(f"tracebond.bench.{part}")
    rows = module.run(quick, lambda text: click.echo(text, err=True))
    report = Report(part, rows)
    for line in report.lines():
        click.echo(line)
    if json_file is not None:
        report.write(json_file)
    sys.exit(0)
