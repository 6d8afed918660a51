"""The ``tracebond`` command: one door to every part, with help that teaches."""

import sys
from pathlib import Path
from typing import Any

import click

from core.errors import Broken, TracebondError, Unavailable
from tracebond.settings import describe, load_settings

EXIT_REFUSED = 1
EXIT_UNAVAILABLE = 3
EXIT_BROKEN = 4


class _Group(click.Group):
    """Turns our errors into one clear line and an exit code; a traceback is for our own mistakes only."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a refusal ends with its sentence."""
        try:
            return super().invoke(ctx)
        except TracebondError as error:
            click.echo(f"tracebond: {error}", err=True)
            code = EXIT_UNAVAILABLE if isinstance(error, Unavailable) else EXIT_REFUSED
            ctx.exit(EXIT_BROKEN if isinstance(error, Broken) else code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Goods history that nobody can quietly rewrite, and credit against it.

    Start with `tracebond demo`: a supply chain, a loan and a proof on this machine, nothing to configure.
    Then `tracebond up` for a server of your own. Settings are TRACEBOND_* variables: `tracebond settings`.
    """


def _data_option(command: Any) -> Any:
    return click.option(
        "--data", type=click.Path(path_type=Path, file_okay=False), help="Folder that holds all state (default: ./var)."
    )(command)


@cli.command()
def settings() -> None:
    """List every setting: variable, default, meaning."""
    for name, default, meaning in describe():
        click.echo(f"{name:28} {meaning}\n{'':28} default: {default}\n")


@cli.command()
@_data_option
@click.option("--seed", default="1", show_default=True, help="The same seed tells the same story.")
@click.option(
    "--units", type=click.IntRange(24, 20_000), default=600, show_default=True, help="How many tins are made."
)
@click.option("--port", type=click.IntRange(0, 65_535), help="Port of the web pages (default: a free one).")
@click.option("--exit", "exit_", is_flag=True, help="End after the table instead of keeping the pages up.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the table to FILE.")
def demo(data: Path | None, seed: str, units: int, port: int | None, exit_: bool, json_file: Path | None) -> None:
    """Watch a whole supply chain, a loan against it, and a proof that the browser checks.

    Signing devices of a farm, a factory, a lab, a warehouse, trucks and shops tell twenty days of a product's life
    over MQTT; the events go into the log and onto a chain; a bank lends against pallets in the warehouse; a second
    bank is refused. All parts are real and run on this machine. Set TRACEBOND_DATABASE_URL, TRACEBOND_BROKER_URL or
    TRACEBOND_CHAIN_URL to use yours.
    """
    from tracebond.demo import run_demo

    given = load_settings(data=data or _demo_folder(), port=0 if port is None else port)
    sys.exit(run_demo(given, seed=seed, units=units, is_one_shot=exit_, json_file=json_file))


def _demo_folder() -> Path:
    return load_settings().data / "demo"


@cli.command()
@_data_option
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on.")
@click.option("--new-chain", is_flag=True, help="Accept another chain: deploy, register and anchor again.")
def up(data: Path | None, host: str | None, port: int | None, new_chain: bool) -> None:
    """Run the all-in-one server: broker, ingest, log, anchors, followers and web in one process."""
    from tracebond.process import run_server

    run_server(load_settings(data=data, host=host, port=port), new_chain=new_chain)


@cli.command()
@_data_option
@click.option("--client-id", default="ingest-1", show_default=True, help="Stable MQTT client id of this worker.")
def ingest(data: Path | None, client_id: str) -> None:
    """Run one ingest worker: broker to database, acknowledged after the commit."""
    from tracebond.process import run_ingest

    run_ingest(load_settings(data=data), client_id=client_id)


@cli.command()
@_data_option
def sequence(data: Path | None) -> None:
    """Run the sequencer and anchorer: stored entries to checkpoints, checkpoints to the chain."""
    from tracebond.process import run_sequence

    run_sequence(load_settings(data=data))


@cli.command()
@_data_option
def follow(data: Path | None) -> None:
    """Run the followers: state, query index, subscriptions, credit monitoring."""
    from tracebond.process import run_follow

    run_follow(load_settings(data=data))


@cli.command()
@_data_option
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on.")
def serve(data: Path | None, host: str | None, port: int | None) -> None:
    """Run the web server alone, beside ingest, sequence and follow processes."""
    from tracebond.process import run_serve

    run_serve(load_settings(data=data, host=host, port=port))


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--rpc", required=True, help="JSON-RPC address of a node you trust.")
@click.option("--log-contract", required=True, help="Address of the TransparencyLog contract you pin (0x..).")
@click.option("--mirror", "mirrors", multiple=True, help="Verifier key of a mirror you trust; may be repeated.")
@click.option(
    "--mirrors-min", type=click.IntRange(1), default=1, show_default=True, help="How many must have cosigned."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def verify(
    bundle: Path, rpc: str, log_contract: str, mirrors: tuple[str, ...], mirrors_min: int, as_json: bool
) -> None:
    """Check a proof bundle with nothing but a node: no database, no trust in the operator.

    Get BUNDLE from /items/{epc}/proof. Exits 0 when every byte of it is proven, else 1 with the reason.
    """
    from tracebond.verify import check_bundle, render

    report = check_bundle(bundle.read_bytes(), rpc, log_contract, mirrors=mirrors, mirrors_min=mirrors_min)
    click.echo(render(report, as_json=as_json))


@cli.command()
@_data_option
@click.option("--full", is_flag=True, help="Check every leaf again, not only those behind the last clean run.")
def audit(data: Path | None, full: bool) -> None:
    """Recompute leaves, tree, map, sequences, receipts and records from stored bytes; compare them with the chain.

    Goes on where the last run without differences stopped; what was audited before is counted, held against the chain
    and sampled. A change of a row back there is found by --full at the latest. Names every record that differs, since
    when it is fixed, and exits 1; exits 0 when all agree.
    """
    from tracebond.audit import run_audit

    sys.exit(run_audit(load_settings(data=data), is_full=full, say=click.echo))


@cli.group()
def epcis() -> None:
    """Check and hash EPCIS 2.0 documents."""


@epcis.command("check")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def epcis_check(file: Path) -> None:
    """Print every problem of FILE: JSON pointer, rule code, sentence. Exits 1 when there is one."""
    from tracebond.documents import check_file

    sys.exit(check_file(file, say=click.echo))


@epcis.command("hash")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--profile", default="gs1-cbv2.0-2023", show_default=True, help="Which definition of the GS1 event hash.")
@click.option("--prehash", is_flag=True, help="Print the pre-hash strings instead.")
def epcis_hash(file: Path, profile: str, prehash: bool) -> None:
    """Print the GS1 event hash of each event of FILE, one ni:/// a line."""
    from tracebond.documents import hash_file

    hash_file(file, profile=profile, is_prehash=prehash, say=click.echo)


def main() -> None:
    """The entry point of the ``tracebond`` command."""
    from tracebond.alarm_cli import alarm
    from tracebond.bench_cli import bench
    from tracebond.broker_cli import broker
    from tracebond.chain_cli import chain
    from tracebond.device_cli import device, org
    from tracebond.erasure_cli import erasure
    from tracebond.finance_cli import finance
    from tracebond.log_cli import log
    from tracebond.master_cli import master
    from tracebond.mirror_cli import mirror
    from tracebond.partner_cli import partner
    from tracebond.quarantine_cli import quarantine
    from tracebond.receipts_cli import receipts
    from tracebond.simulate_cli import simulate
    from tracebond.user_cli import user

    for command in (
        alarm,
        partner,
        quarantine,
        master,
        user,
        bench,
        broker,
        chain,
        device,
        finance,
        log,
        mirror,
        org,
        erasure,
        receipts,
        simulate,
    ):
        cli.add_command(command)
    cli(prog_name="tracebond")
