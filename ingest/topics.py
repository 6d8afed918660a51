"""Names on the wire: topics, broker addresses, and the names under which devices log in."""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from core.errors import Rejected

ORG_PREFIX = "https://id.gs1.org/417/"
GIAI_PREFIX = "https://id.gs1.org/8004/"
EVENTS_FILTER = "tb/1/+/+/events"
SHARED_EVENTS = f"$share/ingest/{EVENTS_FILTER}"

_GLN = re.compile(r"\d{13}\Z")
_DEVICE = re.compile(r"(?:[A-Za-z0-9_-]|%[0-9A-F]{2}){1,90}\Z")


@dataclass(frozen=True, slots=True, order=True)
class DeviceName:
    """A device as topics name it: the GLN of its organisation and its escaped GIAI."""

    gln: str
    device: str

    @property
    def org(self) -> str:
        """The organisation's id, a Digital Link of AI 417."""
        return ORG_PREFIX + self.gln

    @property
    def iss(self) -> str:
        """The device's id, a Digital Link of AI 8004."""
        return GIAI_PREFIX + quote(unquote(self.device), safe="-._~")

    @property
    def username(self) -> str:
        """The name, and MQTT client id, under which the device logs in at the broker."""
        return f"{self.gln}/{self.device}"

    @property
    def events(self) -> str:
        """The topic it publishes messages on."""
        return f"tb/1/{self.gln}/{self.device}/events"

    @property
    def receipts(self) -> str:
        """The topic its receipts come back on."""
        return f"tb/1/{self.gln}/{self.device}/receipts"

    @property
    def commands(self) -> str:
        """The topic it is asked on, for example to send a message again."""
        return f"tb/1/{self.gln}/{self.device}/commands"


def device_name(org: str, iss: str) -> DeviceName:
    """The topic names of a device, from the ids in its key record.

    Raises:
        Rejected: ``bad_device_name`` when ``org`` is no Digital Link of a GLN or ``iss`` none of a GIAI.
    """
    gln = org.removeprefix(ORG_PREFIX)
    giai = iss.removeprefix(GIAI_PREFIX)
    if gln == org or not _GLN.match(gln) or giai == iss or not giai:
        raise Rejected("A device belongs to a GLN (417) and is named by a GIAI (8004).", code="bad_device_name")
    # Clustered brokers turn "/" into "." and back, so a dot in a level would become a level of its own.
    device = quote(unquote(giai), safe="-_").replace(".", "%2E").replace("~", "%7E")
    if not _DEVICE.match(device):
        raise Rejected("The GIAI is too long for a topic.", code="bad_device_name")
    return DeviceName(gln, device)


def read_events_topic(topic: str) -> DeviceName:
    """The device that a topic ``tb/1/{org}/{device}/events`` names.

    Raises:
        Rejected: ``bad_topic``.
    """
    levels = topic.split("/")
    if len(levels) == 5 and levels[:2] == ["tb", "1"] and levels[4] == "events":
        gln, device = levels[2], levels[3]
        if _GLN.match(gln) and _DEVICE.match(device):
            return DeviceName(gln, device)
    raise Rejected("Messages arrive on tb/1/{GLN}/{device}/events.", code="bad_topic")


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker listens and, if it asks, who we are; the password never stands in ``repr``."""

    host: str
    port: int
    username: str | None = None
    password: str | None = None
    scheme: str = "mqtt"

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in ("mqtts", "amqps")

    @property
    def url(self) -> str:
        """The address as a URL, the password in it."""
        who = ""
        if self.username is not None:
            who = quote(self.username, safe="") + (f":{quote(self.password, safe='')}" if self.password else "") + "@"
        return f"{self.scheme}://{who}{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"BrokerAddress({self.scheme}://{self.host}:{self.port}, username={self.username!r})"


_PORTS = {"mqtt": 1883, "mqtts": 8883, "amqp": 5672, "amqps": 5671}
HOSTS_MAX = 16


def read_broker_url(url: str) -> BrokerAddress:
    """The first address in a broker's URL; see ``read_broker_urls``."""
    return read_broker_urls(url)[0]


def read_broker_urls(url: str) -> tuple[BrokerAddress, ...]:
    """The addresses in ``mqtt://user:password@host:port,host:port`` (``mqtts``, ``amqp`` and ``amqps`` alike).

    A cluster is named by all its nodes: whoever loses one tries the next.

    Raises:
        Rejected: ``bad_broker_url``.
    """
    scheme, _, rest = url.partition("://")
    who, _, hosts = rest.rpartition("@")
    found = hosts.split(",")
    if len(found) > HOSTS_MAX:
        raise Rejected(f"A broker has at most {HOSTS_MAX} addresses.", code="bad_broker_url")
    # Only the last host may be followed by a path, and then by an empty one.
    return tuple(_one_address(f"{scheme}://{who + '@' if who else ''}{host}") for host in found)


def _one_address(url: str) -> BrokerAddress:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Rejected("The broker's URL cannot be read.", code="bad_broker_url") from error
    if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/") or parts.query:
        raise Rejected(
            "A broker is named by mqtt://user:password@host:port; a cluster by its hosts with commas between.",
            code="bad_broker_url",
        )
    return BrokerAddress(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        scheme=parts.scheme,
    )


def to_routing_key(topic: str) -> str:
    """An MQTT topic as AMQP brokers write it: dots between the levels, which therefore hold none themselves."""
    return topic.replace("/", ".")


def to_topic(routing_key: str) -> str:
    """An AMQP routing key as the MQTT topic that a device published on."""
    return routing_key.replace(".", "/")
