"""``tracebond broker``: configurations of the broker for production, written from the register of keys."""

import socket
from datetime import UTC, datetime
from pathlib import Path

import click
from sqlalchemy.engine import make_url

from core.errors import Rejected
from ingest.broker import write_config
from ingest.broker_tls import own_certificate
from ingest.cluster import kept_passwords, plan_nodes, workers_url, write_cluster
from ingest.files import TlsFiles, write_private
from ingest.parts import find_parts, install_parts
from ingest.topics import BrokerAddress, DeviceName, device_name
from ledger.keys import keys_of
from tracebond.parts import open_books
from tracebond.settings import Settings, load_settings

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True)
_FOLDER = click.Path(path_type=Path, file_okay=False)
# Where Debian and the upstream packages keep the programs themselves.
_RABBITMQ = ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/sbin")
_LOCAL = ("localhost", "127.0.0.1")


@click.group()
def broker() -> None:
    """The broker between devices and ingest: its configuration for production."""


@broker.command("config")
@click.option("--data", type=_FOLDER, help="Folder that holds all state (default: ./var).")
@click.option("--out", type=_FOLDER, help="Folder to write into (default: broker-config in the data folder).")
@click.option("--cluster", "is_cluster", is_flag=True, help="Three RabbitMQ nodes with a quorum queue.")
@click.option("--host", default="0.0.0.0", show_default=True, help="Address that Mosquitto listens on.")  # noqa: S104
@click.option("--port", type=click.IntRange(1, 65_535), default=8883, show_default=True, help="Port for devices.")
@click.option("--name", "names", multiple=True, help="Host name or address that clients use; may be repeated.")
@click.option("--cert", type=_FILE, help="Certificate of the broker (PEM, with its chain).")
@click.option("--key", type=_FILE, help="Private key of that certificate (PEM).")
@click.option("--ca", type=_FILE, help="Authority that clients trust, or whose certificates they show (PEM).")
@click.option("--client-certs", is_flag=True, help="A client must show a certificate of --ca, besides its password.")
@click.option("--no-tls", is_flag=True, help="Without encryption, on 127.0.0.1 alone: tests, or behind a proxy.")
@click.option(
    "--save", type=click.Choice(["on-change", "each-second"]), default="on-change", show_default=True,
    help="Mosquitto writes its queue after each change, or once a second: faster, loses up to two seconds at kill -9.",
)  # fmt: skip
@click.option("--node", "hosts", multiple=True, help="Host of one cluster node; three times (default: localhost).")
@click.option("--amqp-port", type=click.IntRange(1, 65_500), default=5671, show_default=True, help="Cluster: workers.")
@click.option("--dist-port", type=click.IntRange(1, 55_000), default=25672, show_default=True, help="Cluster: nodes.")
@click.option("--epmd-port", type=click.IntRange(1, 65_535), default=4369, show_default=True, help="Cluster: Erlang.")
def config(
    data: Path | None, out: Path | None, is_cluster: bool, host: str, port: int, names: tuple[str, ...],
    cert: Path | None, key: Path | None, ca: Path | None, client_certs: bool, no_tls: bool, save: str,
    hosts: tuple[str, ...], amqp_port: int, dist_port: int, epmd_port: int,
) -> None:  # fmt: skip
    """Write a ready configuration with a script to start it: Mosquitto, or with --cluster three RabbitMQ nodes.

    Nobody is anonymous. Each enrolled device (register of keys) may publish its own events and read its own receipts
    and commands, nothing else: no wildcard, nothing retained, no other's topic. Publishes have at most 256 KiB, the
    queue has no limit but bytes on disk. Passwords, and a private authority where no certificate is given, are made
    once and kept in the folder, mode 600. Writing again takes in new devices and drops ended ones.

    \b
      tracebond broker config --out /etc/tracebond/broker --name broker.example.com && /etc/tracebond/broker/start.sh
      tracebond broker config --cluster --out ./cluster && ./cluster/start.sh      (then read ./cluster/RUNBOOK.md)
    """
    settings = load_settings(data=data)
    folder = (out or settings.data / ("broker-cluster" if is_cluster else "broker-config")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    devices = kept_passwords(folder / "device-passwords.json", enrolled(settings))
    if client_certs and ca is None:
        raise Rejected("--client-certs needs --ca: the authority of the devices' certificates.", code="bad_option")
    chosen = list(dict.fromkeys([*names, *hosts, socket.gethostname(), "localhost", "127.0.0.1"]))
    tls = None if no_tls else _tls(folder, chosen, cert=cert, key=key, ca=ca, is_mutual=client_certs)
    if is_cluster:
        nodes = plan_nodes(hosts or ("localhost",) * 3, amqp=amqp_port, mqtt=port, dist=dist_port)
        addresses = write_cluster(folder, nodes, programs=_rabbitmq(), tls=tls, passwords=devices, epmd=epmd_port)
        url = workers_url(addresses)
    else:
        parts = find_parts(settings.data) or install_parts(settings.data)
        address = write_config(
            folder, plugin=parts.plugin, program=parts.program, libraries=parts.libraries,
            host="127.0.0.1" if no_tls else host, port=port, tls=tls, devices=devices,
            is_saved_on_change=save == "on-change",
        )  # fmt: skip
        url = BrokerAddress(chosen[0] if names else "127.0.0.1", port, address.username, address.password,
                            address.scheme).url  # fmt: skip
        write_private(folder / "source.url", url + "\n")
    _tell(folder, url, devices, tls)


def enrolled(settings: Settings) -> set[DeviceName]:
    """The devices that have a key without an end, out of the register; none while there is no database yet."""
    address = make_url(settings.database)
    if address.drivername.startswith("sqlite") and not Path(address.database or "").exists():
        return set()
    with open_books(settings) as db, db.reading() as tx:
        return {device_name(key.org, key.iss) for key in keys_of(tx, use="device") if not key.is_ended}


def _tls(
    folder: Path, names: list[str], *, cert: Path | None, key: Path | None, ca: Path | None, is_mutual: bool
) -> TlsFiles:
    if (cert is None) != (key is None):
        raise Rejected("--cert and --key go together.", code="bad_option")
    if cert is not None and key is not None:
        return TlsFiles(ca or cert, cert, key, is_mutual)
    own = own_certificate(folder / "tls", names, now=datetime.now(UTC))
    return TlsFiles(ca or own.authority, own.certificate, own.key, is_mutual)


def _rabbitmq() -> Path:
    folders = [Path(folder) for folder in _RABBITMQ]
    found = next((folder for folder in folders if (folder / "rabbitmq-server").exists()), None)
    if found is None:
        click.echo("RabbitMQ is not installed here: where it shall run, apt-get install rabbitmq-server", err=True)
    return found or folders[0]


def _tell(folder: Path, url: str, devices: dict[DeviceName, str], tls: TlsFiles | None) -> None:
    click.echo(f"written to {folder}; {len(devices)} devices may connect (device-passwords.json)")
    click.echo(f"start it:      {folder / 'start.sh'}")
    click.echo(f'ingest reads:  TRACEBOND_SOURCE="$(cat {folder / "source.url"})"  ({url.partition("@")[2]})')
    if tls is not None and tls.authority.parent == folder / "tls":
        click.echo(f"clients trust: {tls.authority}  (TRACEBOND_BROKER_CA)")
