"""``tracebond receipts``: hold the operator to its receipts, from outside or from the database."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from core.errors import Rejected
from ledger.receipt_audit import (
    BROKEN,
    KEPT,
    NOT_AUTHENTIC,
    PENDING,
    Contract,
    Source,
    accepted_at,
    audit_receipts,
    load,
    summary,
)
from tracebond.settings import load_settings


@click.group()
def receipts() -> None:
    """Check that the log kept what receipts promised."""


def _options(command: Any) -> Any:
    for option in (
        click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True)),
        click.option("--rpc", help="JSON-RPC address of a node you trust (default: the service's own /rpc)."),
        click.option("--log-contract", help="Address of the TransparencyLog contract you pin (0x..)."),
        click.option("--log-url", help="Address of the service, for its public /log routes."),
        click.option("--origin", help="Origin of the log (default: that of the receipts, or of the settings)."),
        click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Read our own database instead."),
    ):
        command = option(command)
    return command


@receipts.command()
@_options
@click.option("--all", "show_all", is_flag=True, help="Print kept and pending receipts too.")
def check(
    files: tuple[Path, ...],
    rpc: str | None,
    log_contract: str | None,
    log_url: str | None,
    origin: str | None,
    data: Path | None,
    show_all: bool,
) -> None:
    """Name each receipt in FILES that was not kept, and why.

    FILES are receipts (a JWS or the bulk form), one or one a line; folders of such; a device's outbox (SQLite). From
    outside: --log-url with --rpc and --log-contract; every byte of the service is held against the contract. On the
    operator's machine: --data. Exits 1 when a receipt is broken or not authentic.
    """
    from tracebond.receipts_source import read_receipts

    pile = list(read_receipts(files))
    source, contract, close = _parts(rpc, log_contract, log_url, data)
    try:
        since_s = min((at for _, raw in pile if (at := accepted_at(raw)) is not None), default=0)
        log = load(source, contract, origin=origin or _origin(pile, data), since_s=since_s)
        verdicts = list(audit_receipts(log, source, pile, now_s=int(time.time())))
    finally:
        close()
    for one in verdicts:
        if show_all or one.status in (BROKEN, NOT_AUTHENTIC):
            click.echo(f"{one.status:13}  {one.name}  {one.reason}")
    counts = summary(verdicts)
    said = ", ".join(f"{counts[status]} {status}" for status in (KEPT, PENDING, BROKEN, NOT_AUTHENTIC))
    click.echo(f"{len(verdicts)} receipts against the log of {log.size} leaves anchored: {said}")
    sys.exit(1 if counts[BROKEN] or counts[NOT_AUTHENTIC] else 0)


@receipts.command()
@_options
@click.option("--interval", default=5.0, show_default=True, help="Seconds between looks.")
@click.option("--turns", type=click.IntRange(1), help="End after this many looks (default: never).")
@click.option("--metrics", "metrics_port", type=click.IntRange(1, 65_535), help="Serve Prometheus metrics here.")
def watch(
    files: tuple[Path, ...],
    rpc: str | None,
    log_contract: str | None,
    log_url: str | None,
    origin: str | None,
    data: Path | None,
    interval: float,
    turns: int | None,
    metrics_port: int | None,
) -> None:
    """Measure the merge delay from receipts: p50 and p99 until checkpoint and until final.

    FILES are read anew at each look; run it beside the service, not inside. A broken promise prints an ALARM line; with
    --turns the exit code is then 1.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    from tracebond.receipts_source import read_receipts
    from tracebond.receipts_watch import Metrics, Watch, run_watch

    registry = CollectorRegistry()
    if metrics_port is not None:
        start_http_server(metrics_port, addr="127.0.0.1", registry=registry)
    source, contract, close = _parts(rpc, log_contract, log_url, data)
    try:
        named = origin or _origin(list(read_receipts(files)), data)
        watched = Watch(source, contract, named, Metrics(registry), int(time.time()))
        code = run_watch(
            watched,
            lambda: read_receipts(files),
            now_s=lambda: int(time.time()),
            sleep=time.sleep,
            say=click.echo,
            interval_s=interval,
            turns=turns,
        )
    finally:
        close()
    sys.exit(code)


def _parts(
    rpc: str | None, log_contract: str | None, log_url: str | None, data: Path | None
) -> tuple[Source, Contract, Callable[[], None]]:
    from tracebond.receipts_source import HttpSource, RpcContract

    if log_url is not None:
        if log_contract is None:
            raise Rejected("Pin the contract: --log-contract 0x...", code="no_contract", pointer="--log-contract")
        return HttpSource(log_url), RpcContract(rpc or f"{log_url.rstrip('/')}/rpc", log_contract), lambda: None
    if data is None:
        raise Rejected("Name the log: --log-url from outside, or --data.", code="no_log", pointer="--log-url")
    from contracts.clients import OrganisationRegistryClient, TransparencyLogClient
    from ledger.receipt_source import DatabaseSource
    from tracebond.parts import open_parts
    from tracebond.receipts_chain import ChainContract

    parts = open_parts(load_settings(data=data))
    log = TransparencyLogClient(parts.chain, parts.deployment.log_contract)
    registry = OrganisationRegistryClient(parts.chain, parts.deployment.organisations)
    return DatabaseSource(parts.db), ChainContract(log, registry), parts.close


def _origin(pile: list[tuple[str, bytes]], data: Path | None) -> str:
    from core.canonical import parse_json, unb64u

    if data is not None:
        return load_settings(data=data).origin
    for _, raw in pile:
        try:
            if raw.startswith(b"{"):
                return str(parse_json(raw, bytes_max=16_000)["receipt"]["log"])
            return str(parse_json(unb64u(raw.split(b".")[1].decode("ascii")), bytes_max=16_000)["log"])
        except (Rejected, KeyError, IndexError, TypeError, UnicodeDecodeError):
            continue
    raise Rejected("No receipt names its log; give --origin.", code="no_log", pointer="--origin")
