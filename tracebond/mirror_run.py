"""A mirror's folder and its loop: own database, own keys, rounds against one operator, and the witness port."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from core.crypto import Ed25519Private, P256Private
from core.errors import Rejected, Unavailable
from core.notes import COSIGNATURE, Verifier
from ledger.database import Database, open_database
from ledger.keyfiles import KeyFiles
from ledger.mirror import Mirror, Refusal, Round
from ledger.mirror_auth import registration
from ledger.mirror_chain import ChainView
from ledger.mirror_replay import get_pin, set_pin
from ledger.mirror_source import LogSource
from ledger.mirror_tables import create, refusals

EVERY_S = 2.0
BACK_OFF_S_MAX = 30.0
PROGRESS_S = 0.5
NAME = "name"
EXIT_REFUSED = 1
WAITED_FOR = ("not_registered",)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Address:
    """Where a mirror gets the log from, and the contract it pins."""

    url: str
    rpc: str
    contract: str
    log_id: int | None = None
    earlier: frozenset[str] = frozenset()


class Folder:
    """A mirror's data folder: ``mirror.db`` and ``keys/``, made on first use.

    Args:
        name: name of the verifier key on first use; kept for life.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path.absolute()
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._files = KeyFiles(self.path / "keys")
        self.database: Database = open_database(f"sqlite:///{self.path / 'mirror.db'}")
        create(self.database)
        self.name = self._name(name)

    @property
    def cosigner(self) -> Ed25519Private:
        """The key that signs cosignatures."""
        return self._files.ed25519("mirror")

    @property
    def requests(self) -> P256Private:
        """The key that signs requests to the operator."""
        return self._files.p256("mirror-requests")

    @property
    def verifier(self) -> Verifier:
        """The verifier key that readers pin."""
        return Verifier(self.name, self.cosigner.public, COSIGNATURE)

    def registration(self) -> bytes:
        """The registration document, for ``tracebond mirror register`` at the operator."""
        return (json.dumps(registration(self.name, self.cosigner, self.requests), indent=2) + "\n").encode()

    def mirror(self, address: Address) -> Mirror:
        """The mirror over this folder."""
        source = LogSource(address.url, self.requests)
        chain = ChainView(address.rpc, address.contract)
        return Mirror(
            self.database,
            source,
            chain,
            name=self.name,
            key=self.cosigner,
            log_id=address.log_id,
            earlier=address.earlier,
        )

    def closed_refusals(self) -> int:
        """How many refusals were closed by the keeper."""
        with self.database.reading() as tx:
            query = sa.select(sa.func.count()).where(refusals.c.closed_s.is_not(None))
            return int(tx.execute(query).scalar_one())

    def close(self) -> None:
        """Give the database back."""
        self.database.close()

    def _name(self, wanted: str | None) -> str:
        with self.database.transaction() as tx:
            kept = get_pin(tx, NAME)
            if kept is None:
                kept = wanted or f"mirror-{self.cosigner.public.raw[:6].hex()}"
                Verifier(kept, self.cosigner.public, COSIGNATURE)
                if not kept.isprintable() or any(char.isspace() or char == "+" for char in kept):
                    raise Rejected("A mirror's name has no spaces and no plus.", code="bad_name")
                set_pin(tx, NAME, kept)
        if wanted is not None and wanted != kept:
            raise Rejected(f"This folder's mirror is named {kept}, for life.", code="other_name")
        return kept


class Progress:
    """A line on long replays, at most twice a second: leaves, share, rate."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._started = self._last = time.monotonic()
        self._from: int | None = None

    def __call__(self, done: int, target: int) -> None:
        """One step of the replay was made."""
        now = time.monotonic()
        if self._from is None:
            self._from, self._started = done, now
        if now - self._last < PROGRESS_S or done == target:
            return
        self._last = now
        rate = (done - self._from) / max(0.001, now - self._started)
        self._say(f"replayed {done:,} of {target:,} leaves ({done * 100 // max(1, target)} %), {rate:,.0f} a second")


def run(
    mirror: Mirror, *, is_once: bool, every_s: float, say: Say, progress: Say, stop: threading.Event | None = None
) -> int:
    """Rounds until stopped, or one; gives the exit code: 0 when the log agrees, 1 when it is refused.

    Raises:
        Unavailable: with ``is_once``: operator or node are away. Rejected, Conflict: they are not the pinned ones.
    """
    stop = stop or threading.Event()
    pause, last = every_s, ""
    while not stop.is_set():
        try:
            made = mirror.round(int(time.time()), Progress(progress))
            pause = every_s
        except (Unavailable, Rejected) as error:
            # A mirror that waits to be registered, or that the operator shut out, asks again; all else is for a person.
            if is_once or (error.code not in WAITED_FOR and not isinstance(error, Unavailable)):
                raise
            pause = min(pause * 2, BACK_OFF_S_MAX)
            words = f"waiting: {error.message}"
        else:
            words = describe(made)
            if is_once:
                say(words)
                return EXIT_REFUSED if made.state == "refused" else 0
        if words != last and not (last and "nothing new" in words):
            say(words)
        last = words
        stop.wait(pause)
    return EXIT_REFUSED if mirror.refusal() is not None else 0


def describe(made: Round) -> str:
    """A round for its keeper."""
    if made.refusal is not None:
        return refusal_text(made.refusal)
    if made.state == "waiting":
        return "nothing is anchored in the contract yet; nothing to replay"
    words = "cosigned" if made.state == "cosigned" else "nothing new; last cosigned"
    return f"{words} {made.cosigned:,} leaves; every one of {made.size:,} replayed leaves agrees"


def refusal_text(refusal: Refusal) -> str:
    """A refusal for a reader: what, where, which rule, since when."""
    when = datetime.fromtimestamp(refusal.found_s, UTC).isoformat().replace("+00:00", "Z")
    where = "the log" if refusal.leaf is None else f"leaf {refusal.leaf}"
    named = f", id {refusal.entry_id}" if refusal.entry_id else ""
    return (
        f"REFUSED {refusal.code}: {where}, {refusal.kind}{named}\n"
        f"  {refusal.message}\n"
        f"  found {when} after {refusal.size:,} good leaves; nothing is cosigned until `tracebond mirror resume`"
    )
