"""``tracebond mirror``: a regulator's or bank's own replay of the whole log."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import click

from core.crypto import Jwk, P256Private
from core.errors import Rejected, Unavailable
from core.identifiers import org_id
from core.records import common, key_members, read_record, sign_record
from ledger.database import Database
from ledger.keys import org_info
from ledger.mirror import close_refusals, open_refusal, summary
from ledger.mirror_auth import COSIGNER, ROLES, read_registration
from ledger.store import admit_record
from tracebond.enrol import Enrolment
from tracebond.loops import now_ms, now_s
from tracebond.mirror_run import EVERY_S, Address, Folder, refusal_text, run
from tracebond.mirror_server import WitnessServer
from tracebond.parts import open_parts
from tracebond.settings import load_settings

STDIN = 0
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_MIRROR_DATA = click.option(
    "--data", type=_FOLDER, default=Path("mirror"), show_default=True, help="The mirror's own folder."
)
_NAME = click.option("--name", help="Name of the verifier key, such as mirror.regulator.example; kept for life.")


@click.group(invoke_without_command=True)
@click.option("--url", help="Address of the operator's server.")
@click.option("--rpc", help="JSON-RPC address of a node that you trust, best one of your own.")
@click.option("--log-contract", help="Address of the TransparencyLog contract you pin (0x..).")
@click.option(
    "--log-id", type=click.IntRange(0), help="Number of the log on the contract (default: the newest live one)."
)
@click.option("--earlier-registry", "earlier", multiple=True, help="Registry of a chain that was given up (0x..).")
@_MIRROR_DATA
@_NAME
@click.option("--once", is_flag=True, help="One round, then end: 0 the log agrees, 1 it is refused, 3 a part is away.")
@click.option("--every", default=EVERY_S, show_default=True, type=click.FloatRange(0.2), help="Seconds between rounds.")
@click.option("--listen", help="HOST:PORT for POST /add-checkpoint (C2SP tlog-witness).")
@click.option("--with-parent", is_flag=True, help="End when standard input closes (for supervisors).")
@click.pass_context
def mirror(
    ctx: click.Context,
    url: str | None,
    rpc: str | None,
    log_contract: str | None,
    log_id: int | None,
    earlier: tuple[str, ...],
    data: Path,
    name: str | None,
    once: bool,
    every: float,
    listen: str | None,
    with_parent: bool,
) -> None:
    """Replay an operator's whole log by yourself, and cosign what agrees.

    A mirror is run by a lender or a regulator, never by the operator, on its own machine and against a node of its
    own. It fetches every entry and item list, recomputes tree and item map, checks each signature, key, sequence and
    record against the log and the contract, and cosigns the anchored checkpoints. Proof bundles carry its signature,
    and whoever pins its key reads *complete as of* instead of *complete according to the operator*. On any difference
    it names the entry, and cosigns nothing any more.

    \b
    First time:
      tracebond mirror key --data DIR --name mirror.bank.example > mirror.json
      (the operator) tracebond mirror register mirror.json --org GLN
      tracebond mirror --url https://goods.example --rpc http://my-node:8545 --log-contract 0x.. --data DIR
    """
    if ctx.invoked_subcommand is not None:
        return
    if not url or not rpc or not log_contract:
        raise click.UsageError("A mirror needs --url, --rpc and --log-contract; see --help.")
    folder = Folder(data, name)
    try:
        address = Address(url, rpc, log_contract.lower(), log_id, frozenset(one.lower() for one in earlier))
        stop = _stop_event(with_parent=with_parent)
        sys.exit(_mirror(folder, address, is_once=once, every_s=every, listen=listen, stop=stop))
    finally:
        folder.close()


@mirror.command("key")
@_MIRROR_DATA
@_NAME
def key(data: Path, name: str | None) -> None:
    """Print what the operator has to register (JSON, on stdout) and the verifier key that readers pin (stderr)."""
    folder = Folder(data, name)
    click.echo(folder.registration().decode(), nl=False)
    click.echo(f"verifier key, for --mirror and TRACEBOND_MIRROR_KEYS: {folder.verifier.encode()}", err=True)
    click.echo("give the JSON to the operator: tracebond mirror register FILE --org <your GLN>", err=True)
    folder.close()


@mirror.command("register")
@click.argument("registration", type=_FILE)
@click.option("--org", "gln", required=True, help="GLN of the lender or regulator that runs the mirror.")
@click.option("--record", type=_FILE, help="The key record, signed elsewhere by the organisation (`mirror sign`).")
@click.option("--data", type=_FOLDER, help="Data folder of the operator's server.")
def register(registration: Path, gln: str, record: Path | None, data: Path | None) -> None:
    """Operator: let a mirror in, by a key record of its organisation in the log.

    The record is signed by the organisation's record key: the one kept in the data folder, or, for an organisation
    that keeps its key itself, beforehand with `tracebond mirror sign`. A running server takes it into the log.
    """
    jwk, verifier = read_registration(registration.read_bytes())
    org = org_id(gln)
    parts = open_parts(load_settings(data=data))
    try:
        with parts.db.reading() as tx:
            info = org_info(tx, org)
        if info is None or not info.roles & ROLES:
            raise Rejected(f"{org} is not registered as a lender or regulator.", code="wrong_role", pointer="--org")
        if record is not None:
            _admit(parts.db, record.read_bytes().strip(), jwk, verifier.encode())
        elif not parts.keyfiles.has(f"org-{gln}"):
            raise Rejected(f"{org} keeps its key itself: give --record.", code="no_key", pointer="--record")
        else:
            signer = parts.keyfiles.organisation(gln)
            Enrolment(parts).key(org, signer, jwk, iss=org, use="mirror", scope={COSIGNER: verifier.encode()})
    finally:
        parts.close()
    click.echo(f"{verifier.name} of {info.name} is registered; it counts as soon as the log holds its record")


@mirror.command("sign")
@click.argument("registration", type=_FILE)
@click.option("--org", "gln", required=True, help="Your GLN.")
@click.option("--key", "key_file", type=_FILE, required=True, help="Your record-signing key (PEM, P-256).")
@click.option("--service", required=True, help="The operator's service id (aud).")
@click.option("--origin", required=True, help="Origin of the log, first line of /log/checkpoint.")
def sign(registration: Path, gln: str, key_file: Path, service: str, origin: str) -> None:
    """Organisation: print the key record of your mirror, signed by your own key, for `mirror register --record`."""
    jwk, verifier = read_registration(registration.read_bytes())
    org = org_id(gln)
    members = key_members(jwk, iss=org, use="mirror", scope={COSIGNER: verifier.encode()})
    payload = common(t="key", aud=service, log=origin, org=org, iat=now_s()) | members
    click.echo(sign_record(payload, P256Private.from_pem(key_file.read_bytes())).decode())


@mirror.command("resume")
@_MIRROR_DATA
@click.option("--reason", required=True, help="Why it may go on; kept beside what was refused.")
def resume(data: Path, reason: str) -> None:
    """Close what was refused and replay everything again from leaf 0, held to what was cosigned before."""
    folder = Folder(data)
    count = close_refusals(folder.database, int(time.time()), reason)
    click.echo(f"{count} refusals closed; the next round replays from leaf 0")
    folder.close()


@mirror.command("status")
@_MIRROR_DATA
def status(data: Path) -> None:
    """What this mirror last cosigned, and what it refuses. Exits 1 while it refuses."""
    folder = Folder(data)
    size, cosigned, time_s = summary(folder.database)
    held = open_refusal(folder.database)
    click.echo(f"{folder.verifier.encode()}\nreplayed {size:,} leaves, cosigned {cosigned:,} at {time_s}")
    if held is not None:
        click.echo(refusal_text(held))
    folder.close()
    sys.exit(0 if held is None else 1)


def _stop_event(*, with_parent: bool) -> threading.Event:
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, frame: stop.set())

    def follow_parent() -> None:
        # The descriptor itself: a thread that holds Python's buffered reader would block the interpreter's end.
        while os.read(STDIN, 1_024):
            pass
        stop.set()

    if with_parent:
        threading.Thread(target=follow_parent, name="parent", daemon=True).start()
    return stop


def _mirror(
    folder: Folder, address: Address, *, is_once: bool, every_s: float, listen: str | None, stop: threading.Event
) -> int:
    made = folder.mirror(address)
    server = None
    if listen is not None:
        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit():
            raise Rejected("--listen is HOST:PORT.", code="bad_setting", pointer="--listen")
        try:
            server = WitnessServer(made, host, int(port))
        except OSError as error:
            raise Unavailable(f"Nothing can listen on {listen}: {error}", code="no_port") from error
        server.start()
        click.echo(f"witness at {server.url}/add-checkpoint", err=True)
    is_terminal = sys.stderr.isatty()

    def progress(words: str) -> None:
        click.echo(f"\r\033[K{words}" if is_terminal else words, nl=not is_terminal, err=True)

    def say(words: str) -> None:
        click.echo("\r\033[K" if is_terminal else "", nl=False, err=True)
        click.echo(words)

    try:
        return run(made, is_once=is_once, every_s=every_s, say=say, progress=progress, stop=stop)
    finally:
        if server is not None:
            server.close()


def _admit(database: Database, record: bytes, jwk: Jwk, cosigner: str) -> None:
    payload = read_record(record).payload
    if payload["t"] != "key" or payload["jwk"] != jwk or payload["scope"].get(COSIGNER) != cosigner:
        raise Rejected("The record is not the key record of this registration.", code="bad_record", pointer="--record")
    if payload["use"] != "mirror":
        raise Rejected("The record's use is not mirror.", code="bad_record", pointer="--record")
    with database.transaction() as tx:
        admit_record(tx, record, now_ms=now_ms())
