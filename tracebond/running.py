"""What a second process needs to know of the server that runs on the same data folder."""

import json
from pathlib import Path

from core.errors import Unavailable
from ingest.access import ADMIN, BrokerAccess
from ingest.topics import BrokerAddress, read_broker_url
from tracebond.settings import Settings


def broker_url(settings: Settings) -> str:
    """Where devices connect: the set broker (a cluster by all its hosts), or the child broker of the running server.

    Raises:
        Unavailable: no server has run on this data folder.
    """
    for url in (settings.device_broker_url, settings.broker_url):
        if url.startswith("mqtt"):
            return url
    return BrokerAddress("127.0.0.1", _port(settings.data)).url


def broker_access(settings: Settings) -> BrokerAccess | None:
    """Lets devices in at the child broker, or at the one whose access is ours to keep; None where it is not."""
    if settings.broker_admin_url:
        return BrokerAccess(read_broker_url(settings.broker_admin_url), authority=settings.broker_ca or None)
    if settings.broker_url or settings.source:
        return None
    port = _port(settings.data)
    secrets = json.loads((settings.data / "broker" / "secrets.json").read_text(encoding="utf-8"))
    return BrokerAccess(BrokerAddress("127.0.0.1", port, ADMIN, secrets[ADMIN]))


def _port(data: Path) -> int:
    try:
        return int((data / "broker" / "port").read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"No broker was ever started on {data}; run `tracebond up --data {data}` first.", code="no_broker"
        ) from error
