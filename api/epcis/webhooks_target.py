"""Sending to an address that a stranger named: only where the whole internet may go, and not for long.

The name is resolved once, every address it has must be public, and the connection goes to exactly that address: a
second answer of the name server changes nothing. No redirect is followed.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from core.errors import Rejected

URL_CHARACTERS_MAX: Final = 2_048
PORTS: Final = frozenset({443, 8443})
CONNECT_S: Final = 5.0
TOTAL_S: Final = 15.0
ANSWER_BYTES_MAX: Final = 4_096
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_HOST_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:[]")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], list[str]]


class BadTarget(Rejected):
    """The address cannot be reported to."""

    code = "invalid_uri"


@dataclass(frozen=True)
class Target:
    """Where a report goes.

    Attributes:
        path: path and query.
    """

    is_tls: bool
    host: str
    port: int
    path: str


@dataclass(frozen=True)
class Answer:
    """What came back: an HTTP status, or 0 and why there is none."""

    status: int
    reason: str

    @property
    def is_good(self) -> bool:
        """Whether the receiver took it."""
        return 200 <= self.status < 300


def read_target(url: str, *, may_be_private: bool) -> Target:
    """The target of an address.

    Args:
        may_be_private: also plain http, any port, and hosts that are not public; for tests and closed networks.

    Raises:
        BadTarget: it is no address that we report to.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise BadTarget("dest is no web address.", pointer="dest") from error
    if len(url) > URL_CHARACTERS_MAX or not url.isascii() or any(ord(c) <= 32 for c in url):
        raise BadTarget(f"dest is a web address of at most {URL_CHARACTERS_MAX} ASCII characters.", pointer="dest")
    schemes = ("https", "http") if may_be_private else ("https",)
    if parts.scheme not in schemes or not host or not set(host) <= _HOST_CHARACTERS:
        raise BadTarget(f"dest begins with {' or '.join(schemes)} and names a host.", pointer="dest")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise BadTarget("dest holds no user, password or fragment.", pointer="dest")
    is_tls = parts.scheme == "https"
    port = port if port is not None else 443 if is_tls else 80
    if not may_be_private and port not in PORTS:
        raise BadTarget(f"dest uses one of the ports {', '.join(map(str, sorted(PORTS)))}.", pointer="dest")
    if not may_be_private and (_is_private_literal(host) or host.rstrip(".").lower().endswith(("localhost", ".local"))):
        raise BadTarget("dest must be reachable from the internet.", pointer="dest")
    return Target(is_tls, host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet: not loopback, private, link-local, multicast or reserved, nor a form
    of IPv6 that carries such an IPv4 address inside."""
    try:
        found: Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inside = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inside is None and found in _NAT64:
            inside = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(str(inside))
        if int(found) >> 32 == 0:
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host name."""
    return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


def post(
    target: Target,
    body: bytes,
    headers: Mapping[str, str],
    *,
    may_be_private: bool,
    resolver: Resolve = resolve,
    total_s: float = TOTAL_S,
) -> Answer:
    """Send a body by POST and say what came back. Never raises for what a receiver does."""
    try:
        addresses = resolver(target.host, target.port)
    except (OSError, UnicodeError):
        return Answer(0, "The host is not reachable.")
    if not addresses or not (may_be_private or all(is_public(address) for address in addresses)):
        # The same words as for a host without an address: the receiver's owner learns nothing of our network.
        return Answer(0, "The host is not reachable.")
    connection = _Pinned(target, addresses[0])
    watch = threading.Timer(total_s, connection.abort)
    watch.daemon = True
    watch.start()
    try:
        connection.request("POST", target.path, body=body, headers=dict(headers))
        answer = connection.getresponse()
        answer.read(ANSWER_BYTES_MAX)
        return Answer(answer.status, "" if 200 <= answer.status < 300 else f"The receiver answered {answer.status}.")
    except TimeoutError:
        return Answer(0, "The receiver did not answer in time.")
    except ssl.SSLError:
        return Answer(0, "The receiver's certificate was not accepted.")
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        reason = "The receiver did not answer in time." if connection.is_aborted else "The host is not reachable."
        return Answer(0, reason)
    finally:
        watch.cancel()
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """A connection to one address of a host, with the host's own name in TLS and in the Host header."""

    def __init__(self, target: Target, address: str) -> None:
        super().__init__(target.host, target.port, timeout=CONNECT_S)
        self.default_port = 443 if target.is_tls else 80
        self.is_aborted = False
        self._target = target
        self._address = address

    def connect(self) -> None:
        """Connect to the address that was checked."""
        plain = socket.create_connection((self._address, self._target.port), CONNECT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = plain
        if self._target.is_tls:
            self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self._target.host)

    def abort(self) -> None:
        """End it from another thread; what waits on the socket fails."""
        self.is_aborted = True
        held = self.sock
        if held is not None:
            try:
                held.shutdown(socket.SHUT_RDWR)
            except OSError:
                held.close()


def _is_private_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        # Numbers that some resolvers take for addresses: 127.1, 0x7f000001, 2130706433.
        return all(part and (part.isdigit() or part.lower().startswith("0x")) for part in host.rstrip(".").split("."))
    return not is_public(host.strip("[]"))
