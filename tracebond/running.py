"""What a second process needs to know of the server that runs on the same data folder."""

import json
from pathlib import Path

from core.errors import Unavailable
from ingest.access import ADMIN, BrokerAccess
from ingest.topics import BrokerAddress
from tracebond.settings import Settings


def broker_url(settings: Settings) -> str:
    """Where devices connect: the set broker, or the child broker of the running server.

    Raises:
        Unavailable: no server has run on this data folder.
    """
    if settings.broker_url:
        return settings.broker_url
    return BrokerAddress("127.0.0.1", _port(settings.data)).url


def broker_access(settings: Settings) -> BrokerAccess | None:
    """Lets devices in at the child broker; None where the broker is somebody else's."""
    if settings.broker_url:
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
