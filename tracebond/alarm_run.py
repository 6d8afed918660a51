"""Alarms in a process: the sender of their webhooks, and the steps of their loops."""

from collections.abc import Callable

from api.epcis.webhooks import signed_headers, wait_ms
from api.epcis.webhooks_target import post, read_target
from core.errors import Rejected
from ingest.alarms import Alarms, listen_for_silence, run_once
from ingest.alarms_told import Hooks, Send
from ledger.database import Database


def sender(*, may_be_private: bool) -> Send:
    """Posts a webhook as subscriptions do: signed, to one checked address, without redirects."""

    def send(address: str, secret: str, delivery: str, body: bytes, now_s: int) -> tuple[bool, str]:
        try:
            target = read_target(address, may_be_private=may_be_private)
        except Rejected as error:
            return False, error.message
        answer = post(target, body, signed_headers(secret, delivery, body, now_s), may_be_private=may_be_private)
        return answer.is_good, answer.reason or str(answer.status)

    return send


def alarm_step(db: Database, now_ms: Callable[[], int], *, may_be_private: bool) -> Callable[[], bool]:
    """One step of the loop: read on, listen for silence, send what waits."""
    follower, hooks = Alarms(), Hooks(db, sender(may_be_private=may_be_private), wait_ms)

    def step() -> bool:
        taken = run_once(db, follower)
        if not taken:
            listen_for_silence(db, now_ms())
        return bool(hooks.step(now_ms())) or taken > 0

    return step
