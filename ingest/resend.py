"""Asks devices for what is missing: a place in a key's sequence that stays empty is asked for on the command topic.

The command is plain JSON, ``{"v":1,"t":"resend","kid":...,"from":seq,"to":seq}``. It is not signed: the broker lets the
ingest workers alone publish commands, and all that a command can do is make a device send signed bytes that it keeps
anyway. Every worker may ask; what comes twice is one message.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog

from core.canonical import canonical_bytes
from core.errors import Rejected
from ingest.topics import device_name
from ledger.chains import gaps
from ledger.database import Database, Tx
from ledger.tables import chains, key_ends, keys

AFTER_S = 30
# Our own figures: a device answers from its outbox at once, so few questions a look are enough and never a flood.
ASKS_MAX = 50
KEYS_MAX = 200
RANGE_MAX = 500
AGAIN_S_MAX = 3_600

Publish = Callable[[Sequence[tuple[str, bytes]]], int]
_log = structlog.get_logger(__name__)


@dataclass
class _Open:
    since_ms: int
    ask_ms: int
    asked: int = 0


@dataclass(frozen=True)
class _Key:
    kid: str
    org: str
    iss: str
    stand: tuple[int, int]


class Resender:
    """Watches the gaps of open keys and asks for those that stay.

    Args:
        publish: sends (topic, payload) and gives how many were taken.
        after_s: how long a gap must be open before the first question; the pause doubles with each further one.
    """

    def __init__(self, database: Database, publish: Publish, *, after_s: int = AFTER_S) -> None:
        self._database = database
        self._publish = publish
        self._after_ms = after_s * 1_000
        self._holes: dict[str, tuple[tuple[int, int], list[tuple[int, int]]]] = {}
        self._open: dict[tuple[str, int], _Open] = {}
        self.asked = 0

    def step(self, now_ms: int) -> int:
        """Look once; gives how many questions were sent.

        Raises:
            Unavailable: the database is away.
        """
        with self._database.reading() as tx:
            found = self._look(tx)
        open_now = {(key.kid, first): (key, last) for key, holes in found for first, last in holes}
        for place in self._open.keys() - open_now.keys():
            del self._open[place]
        due: list[tuple[tuple[str, int], _Key, int]] = []
        for place, (key, last) in open_now.items():
            one = self._open.setdefault(place, _Open(now_ms, now_ms + self._after_ms))
            if one.ask_ms <= now_ms:
                due.append((place, key, last))
        due.sort(key=lambda each: self._open[each[0]].ask_ms)
        return self._ask(due[:ASKS_MAX], now_ms)

    def _ask(self, due: Sequence[tuple[tuple[str, int], _Key, int]], now_ms: int) -> int:
        messages = [
            (device_name(key.org, key.iss).commands, command(key.kid, first, min(last, first + RANGE_MAX - 1)))
            for (_, first), key, last in due
        ]
        taken = self._publish(messages) if messages else 0
        for place, key, last in due[:taken]:
            one = self._open[place]
            one.asked += 1
            pause_ms = min(self._after_ms * 2**one.asked, AGAIN_S_MAX * 1_000)
            one.ask_ms = now_ms + pause_ms
            _log.info("resend_asked", device=key.iss, kid=key.kid, first=place[1], last=last, times=one.asked)
        self.asked += taken
        return taken

    def _look(self, tx: Tx) -> list[tuple[_Key, list[tuple[int, int]]]]:
        """The gaps of open keys; a key whose chain has not moved is not read again."""
        standing = _incomplete(tx)
        self._holes = {key.kid: self._holes[key.kid] for key in standing if key.kid in self._holes}
        changed = [key for key in standing if self._holes.get(key.kid, (None,))[0] != key.stand]
        for key in changed[:KEYS_MAX]:
            self._holes[key.kid] = (key.stand, [(gap.first, gap.last) for gap in gaps(tx, key.kid)])
        return [(key, self._holes[key.kid][1]) for key in standing if key.kid in self._holes]


def command(kid: str, first: int, last: int) -> bytes:
    """The bytes of a question for the messages ``first`` to ``last`` of one key."""
    body: dict[str, Any] = {"v": 1, "t": "resend", "kid": kid, "from": first, "to": last}
    return canonical_bytes(body)


def _incomplete(tx: Tx) -> list[_Key]:
    """Devices' keys without an end whose sequence has a hole."""
    query = (
        sa.select(keys.c.kid, keys.c.org, keys.c.iss, chains.c.highest, chains.c["distinct"])
        .join(chains, chains.c.key_no == keys.c.key_no)
        .outerjoin(key_ends, key_ends.c.kid == keys.c.kid)
        .where(keys.c.use == "device", key_ends.c.kid.is_(None), chains.c["distinct"] <= chains.c.highest)
        .order_by(keys.c.key_no)
    )
    found = []
    for row in tx.execute(query):
        try:
            device_name(row.org, row.iss)
        except Rejected:
            continue  # a device that has no topic was never at the broker
        found.append(_Key(row.kid, row.org, row.iss, (row.highest, row[4])))
    return found
