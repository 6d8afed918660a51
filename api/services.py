"""What the web pages need from the rest of the process; the composition root builds it."""

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from contracts.chain import Chain
from ingest.devicedesk import DeviceDesk
from ingest.gateway import Gateway
from ingest.quarantine_desk import QuarantineDesk
from ledger.database import Database, Tx
from ledger.itemmap import ProofMap
from ledger.proofs import LogPlace


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class WebSettings:
    """How the pages present themselves and which chain place they pin."""

    base_url: str = ""
    service: str = "tracebond"
    origin: str = ""
    log_contract: str = ""
    chain_id: int = 0
    log_id: int = 0
    is_demo: bool = False
    is_own_chain: bool = True
    session_idle_s: int = 1_800
    session_life_s: int = 43_200
    mirror_keys: tuple[str, ...] = ()
    webhook_private: bool = False


@dataclass(frozen=True)
class Services:
    """Open parts of the process: database, chain, maps for proofs, finance, and the clock and randomness of the edge.

    Attributes:
        proof_lock: held by whoever advances ``maps`` and by whoever makes a proof from it.
        maps: the item map at the last final anchored size, for proof bundles; None where this process makes none.
        place: where the log is anchored.
        finance: what the bank's desk calls, see ``api/consoles/bank.py``.
        gateway: signs what partners capture; None where this process takes no captures.
        devices: takes records, claims and what organisations do with their devices; None where this process does not.
        publish: sends on devices' command topics, and gives how many were taken; None where no broker is reached.
        quarantine: replays and clears the quarantine; None where this process does not.
        capture_worker: told (``call``) when a capture job is stored; see ``api/epcis/worker.py``.
        sign_case: application, lender and unix seconds to a signed case file; None where no operator's key is held.
        broker_problem: "" while the broker answers, else what is wrong; None where this process has none.
    """

    db: Database
    settings: WebSettings = field(default_factory=WebSettings)
    chain: Chain | None = None
    maps: ProofMap | None = None
    place: LogPlace | None = None
    proof_lock: threading.Lock = field(default_factory=threading.Lock)
    finance: Any = None
    gateway: Gateway | None = None
    capture_worker: Any = None
    devices: DeviceDesk | None = None
    quarantine: QuarantineDesk | None = None
    publish: Callable[[Sequence[tuple[str, bytes]]], int] | None = None
    sign_case: Callable[[Tx, str, str, int], bytes] | None = None
    broker_problem: Callable[[], str] | None = None
    now_ms: Callable[[], int] = _now_ms
    random: Callable[[int], bytes] = secrets.token_bytes
