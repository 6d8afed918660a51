"""Chain_txs sent exactly once: numbered and signed in the database first, then sent, then watched until final.

Any number of senders may be alive. Whatever a sender does not know after a crash or a timeout it learns from the
receipts of the attempts that the database holds; sending the same bytes again does no harm.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import rlp
from eth_utils.crypto import keccak

from contracts.chain import Chain, ChainReceipt, Fees, FeeTooLow, MaybeSent, NoFunds, Reverted
from contracts.deploy import Deployment
from contracts.inorder import bumped
from contracts.signer import Signer
from core.errors import Conflict, Rejected, Unavailable
from ledger import chain_book as book
from ledger.chain_alarms import Alarm, clear_alarm, is_credit_stopped, open_alarms, raise_alarm
from ledger.chain_book import (
    Account,
    Attempt,
    ChainTx,
    check_start,
    current_deployment,
    enqueue,
    enqueue_funding,
    record_deployment,
    state_of,
)
from ledger.database import Database

__all__ = [
    "Alarm",
    "Attempt",
    "ChainSender",
    "ChainTx",
    "SenderSettings",
    "StepReport",
    "check_start",
    "clear_alarm",
    "current_deployment",
    "enqueue",
    "enqueue_funding",
    "is_credit_stopped",
    "open_alarms",
    "record_deployment",
    "resume_account",
    "state_of",
]

_FINAL_LOOK_BACK = 500


@dataclass(frozen=True)
class SenderSettings:
    """How a sender behaves; figures of our own choice.

    Attributes:
        unfinal_max: signed chain_txs of one account that may wait for finality at once.
        resend_after_ms: hand the bytes over again when there is no receipt for so long.
        replace_after_ms: offer more when there is no receipt for so long.
        fee_cap_wei: never offer more per gas.
    """

    unfinal_max: int = 16
    resend_after_ms: int = 3_000
    replace_after_ms: int = 30_000
    fee_cap_wei: int = 500 * 10**9


@dataclass
class StepReport:
    """What one step did, by chain_tx id."""

    signed: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)
    mined: list[int] = field(default_factory=list)
    final: list[int] = field(default_factory=list)
    reverted: list[int] = field(default_factory=list)
    back: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)

    @property
    def is_idle(self) -> bool:
        """Whether nothing changed."""
        return not any(getattr(self, name) for name in self.__dataclass_fields__)


class ChainSender:
    """Sends what is queued for the contracts in use. Call :meth:`step` again and again."""

    def __init__(
        self,
        db: Database,
        chain: Chain,
        signer: Signer,
        settings: SenderSettings | None = None,
        *,
        at: Callable[[str], None] | None = None,
    ) -> None:
        """Check that the chain is the one of the database.

        Args:
            at: called at each point where a crash must do no harm; for tests.

        Raises:
            WrongChain: it is not.
        """
        self._db, self._chain, self._signer = db, chain, signer
        self._settings = settings or SenderSettings()
        self._at = at or (lambda point: None)
        self._seen_head: str | None = None
        with db.reading() as tx:
            self._deployment, self._description = current_deployment(tx)
        chain.check_identity(chain_id=self._description.chain_id, genesis_hash=self._description.genesis_hash)

    @property
    def deployment(self) -> Deployment:
        """The contracts in use."""
        return self._description

    def step(self, now_ms: int) -> StepReport:
        """Watch what was sent, then sign and send what is queued.

        Raises:
            Unavailable: chain or database is away; what was found out until then is kept.
        """
        report = StepReport()
        head = self._chain.block_hash(self._chain.block_number()) if self._chain.is_tester else None
        # The built-in chain answers one question at a time: with the same head it says what it said before.
        is_news = head is None or head != self._seen_head
        if is_news:
            self._watch_final(report, now_ms)
        self._watch_open(report, now_ms)
        if is_news:
            self._watch_nonces(report, now_ms)
            self._seen_head = head
        with self._db.reading() as tx:
            names = book.waiting_accounts(tx, self._deployment)
        for name in names:
            self._serve(name, report, now_ms)
        if self._chain.is_tester and report.sent:
            # Mined already: look at once instead of at the next step.
            self._watch_open(report, now_ms)
        return report

    # Watching

    def _watch_final(self, report: StepReport, now_ms: int) -> None:
        with self._db.reading() as tx:
            newest = book.last_final(tx, self._deployment, limit=1)
        if not newest or self._is_canonical(newest[0]):
            return
        with self._db.reading() as tx:
            finals = book.last_final(tx, self._deployment, limit=_FINAL_LOOK_BACK)
        vanished = []
        for one in finals:
            if self._is_canonical(one):
                break
            vanished.append(one)
        with self._db.transaction() as tx:
            for one in vanished:
                if book.move(tx, one.id, before=(one.state,), after="sent", now_ms=now_ms):
                    report.back.append(one.id)
            detail = f"{len(vanished)} final chain_txs are gone, from block {vanished[-1].block_number} on."
            raise_alarm(tx, self._deployment, "finality_broken", detail=detail, now_ms=now_ms)

    def _is_canonical(self, one: ChainTx) -> bool:
        return one.block_number is None or self._chain.block_hash(one.block_number) == one.block_hash

    def _watch_open(self, report: StepReport, now_ms: int) -> None:
        with self._db.reading() as tx:
            opened = book.open_txs(tx, self._deployment)
            attempts = book.attempts_of(tx, [one.id for one in opened])
        if not opened:
            return
        # The final height is read before the receipts: a receipt seen later cannot be called final by an older height.
        final = self._chain.final_block_number()
        for one in opened:
            receipt = self._receipt(attempts[one.id])
            if receipt is None:
                if one.state == "mined":
                    self._set(report.back, one, after="sent", now_ms=now_ms)
                self._push(one, attempts[one.id], report, now_ms)
            elif receipt.block_number <= final and self._chain.block_hash(receipt.block_number) == receipt.block_hash:
                self._at("before_final")
                self._conclude(one, receipt, report, now_ms)
                self._at("final")
            elif (one.state, one.block_hash) != ("mined", receipt.block_hash):
                self._set(report.mined, one, after="mined", now_ms=now_ms, receipt=receipt)
                self._at("mined")
                self._chain.settle(receipt.block_number)
            else:
                self._chain.settle(receipt.block_number)

    def _receipt(self, attempts: list[Attempt]) -> ChainReceipt | None:
        for attempt in reversed(attempts):
            receipt = self._chain.receipt(attempt.tx_hash)
            if receipt is not None:
                return receipt
        return None

    def _conclude(self, one: ChainTx, receipt: ChainReceipt, report: StepReport, now_ms: int) -> None:
        if receipt.is_success:
            self._set(report.final, one, after="final", now_ms=now_ms, receipt=receipt)
        else:
            reason = self._reason(one, receipt)
            self._set(report.reverted, one, after="reverted", now_ms=now_ms, receipt=receipt, reason=reason)

    def _reason(self, one: ChainTx, receipt: ChainReceipt) -> str:
        if one.to is None:
            return "reverted"
        try:
            sender = self._signer.address(one.account)
            self._chain.call(one.to, one.data, max(0, receipt.block_number - 1), sender=sender)
        except Reverted as error:
            return error.reason or "reverted"
        except (Unavailable, Rejected):
            return "reverted"
        return "out of gas, or another chain_tx of the same block came first"

    def _set(
        self,
        found: list[int],
        one: ChainTx,
        *,
        after: str,
        now_ms: int,
        receipt: ChainReceipt | None = None,
        reason: str | None = None,
    ) -> None:
        with self._db.transaction() as tx:
            if book.move(
                tx, one.id, before=("sent", "mined"), after=after, now_ms=now_ms, receipt=receipt, reason=reason
            ):
                found.append(one.id)

    # Sending again and replacing

    def _push(self, one: ChainTx, attempts: list[Attempt], report: StepReport, now_ms: int) -> None:
        newest = attempts[-1]
        due = newest.sent_ms is None or now_ms - newest.sent_ms >= self._settings.resend_after_ms
        if not due and one.state != "mined":
            return
        if not self._chain.is_tester and now_ms - newest.signed_ms >= self._settings.replace_after_ms:
            newest = self._replace(one, attempts, report, now_ms) or newest
        self._send(one, newest, report, now_ms)

    def _replace(self, one: ChainTx, attempts: list[Attempt], report: StepReport, now_ms: int) -> Attempt | None:
        last = attempts[-1]
        fees = self._chain.fees()
        priority = max(bumped(last.priority_fee), fees.priority)
        max_fee = max(bumped(last.max_fee), fees.base * 2 + priority)
        if max_fee > self._settings.fee_cap_wei:
            self._alarm("fee_cap", one.account, f"Replacing chain_tx {one.id} would cost {max_fee} wei a gas.", now_ms)
            return None
        gas = int.from_bytes(rlp.decode(last.raw[1:])[4])
        with self._db.transaction() as tx:
            account = book.lock_account(tx, self._deployment, one.account)
            known = book.attempts_of(tx, [one.id])[one.id]
            if account is None or len(known) != len(attempts) or account.is_halted:
                return None
            attempt = self._sign(one, last.nonce, len(attempts), gas, max_fee, priority, now_ms)
            book.add_attempt(tx, one.id, attempt)
        report.replaced.append(one.id)
        self._at("replaced")
        return attempt

    def _send(self, one: ChainTx, attempt: Attempt, report: StepReport, now_ms: int) -> None:
        self._at("before_send")
        answer = "taken"
        try:
            self._chain.send_raw(attempt.raw)
            self._at("sent")
        except MaybeSent as error:
            answer = f"maybe: {error.message}"
        except NoFunds as error:
            answer = f"no funds: {error.message}"
            self._alarm("empty_balance", one.account, f"{one.account} cannot pay for chain_tx {one.id}.", now_ms)
        except FeeTooLow as error:
            answer = f"fee too low: {error.message}"
        except (Rejected, Conflict) as error:
            # Not known to be a failure for good: the receipt decides. People see what the node said.
            answer = f"refused: {error.message}"
            self._alarm("send_refused", one.account, f"chain_tx {one.id}: {error.message}", now_ms)
        except Unavailable as error:
            answer = f"unknown: {error.message}"
        with self._db.transaction() as tx:
            book.note_sent(tx, one.id, attempt.number, now_ms=now_ms, answer=answer)
            if answer == "taken":
                for code in ("empty_balance", "send_refused", "fee_cap"):
                    clear_alarm(tx, self._deployment, code, account=one.account, now_ms=now_ms)
        report.sent.append(one.id)

    # Nonces of others

    def _watch_nonces(self, report: StepReport, now_ms: int) -> None:
        with self._db.reading() as tx:
            known = book.accounts(tx, self._deployment)
        for account in known:
            if account.is_halted:
                self._watch_lost(account.name, report, now_ms)
            self._watch_nonce(account.name, account.address, report, now_ms)

    def _watch_nonce(self, name: str, address: str, report: StepReport, now_ms: int) -> None:
        # The chain is read before the database: what we signed before the chain's answer is in the database by then.
        used = self._chain.nonce(address)
        with self._db.reading() as tx:
            account = next(one for one in book.accounts(tx, self._deployment) if one.name == name)
            opened = [one for one in book.open_txs(tx, self._deployment, account=name) if one.nonce is not None]
            attempts = book.attempts_of(tx, [one.id for one in opened])
        stolen = [
            one
            for one in opened
            if one.nonce is not None and one.nonce < used and self._receipt(attempts[one.id]) is None
        ]
        is_beyond = used > account.next_nonce
        if not stolen and not is_beyond:
            self._all_ours(account, now_ms)
            return
        if not is_beyond and self._chain.nonce(address) < used:
            return
        final = self._chain.final_block_number()
        used_final = self._chain.nonce(address, final)
        with self._db.transaction() as tx:
            detail = f"{address} used nonce {used - 1}, {len(stolen)} of ours lost; its key may be in other hands."
            book.halt_account(tx, self._deployment, name, now_ms=now_ms)
            raise_alarm(tx, self._deployment, "foreign_nonce", account=name, detail=detail, now_ms=now_ms)
        for one in stolen:
            if one.nonce is not None and one.nonce < used_final and self._receipt(attempts[one.id]) is None:
                self._set(report.lost, one, after="lost", now_ms=now_ms, reason="nonce used by another chain_tx")

    def _watch_lost(self, name: str, report: StepReport, now_ms: int) -> None:
        """A node that hides receipts makes ours look lost; when one shows up, it is followed again."""
        with self._db.reading() as tx:
            lost = book.lost_txs(tx, self._deployment, name)
            attempts = book.attempts_of(tx, [one.id for one in lost])
        for one in lost:
            if self._receipt(attempts[one.id]) is not None:
                with self._db.transaction() as tx:
                    if book.revive(tx, one.id, now_ms=now_ms):
                        report.back.append(one.id)

    def _all_ours(self, account: Account, now_ms: int) -> None:
        """Undo a false alarm: a node behind the others, or a reorganisation, made ours look like another's."""
        if not account.is_halted:
            return
        with self._db.transaction() as tx:
            if book.has_lost(tx, self._deployment, account.name):
                return
            book.halt_account(tx, self._deployment, account.name, now_ms=None)
            clear_alarm(tx, self._deployment, "foreign_nonce", account=account.name, now_ms=now_ms)

    # Signing

    def _serve(self, name: str, report: StepReport, now_ms: int) -> None:
        address = self._signer.address(name)
        self._open(name, address)
        with self._db.reading() as tx:
            room = self._settings.unfinal_max - len(book.open_txs(tx, self._deployment, account=name))
            queued = book.queued_txs(tx, self._deployment, name, max(0, room))
        if not queued:
            return
        fees = self._chain.fees()
        if fees.base + fees.priority > self._settings.fee_cap_wei:
            self._alarm("fee_cap", name, f"A gas costs {fees.base + fees.priority} wei now; we wait.", now_ms)
            return
        balance = self._chain.balance(address)
        for one in queued:
            gas = self._gas(one, address, report, now_ms)
            if gas is None:
                return
            max_fee = min(fees.base * 2 + fees.priority, self._settings.fee_cap_wei)
            balance -= gas * max_fee + one.value
            if balance < 0:
                self._alarm("empty_balance", name, f"{name} ({address}) cannot pay for chain_tx {one.id}.", now_ms)
                return
            if gas == 0:
                continue
            attempt = self._sign_first(one, gas, max_fee, fees, now_ms)
            if attempt is None:
                return
            report.signed.append(one.id)
            self._at("signed")
            self._send(one, attempt, report, now_ms)

    def _open(self, name: str, address: str) -> None:
        with self._db.reading() as tx:
            if any(account.name == name for account in book.accounts(tx, self._deployment)):
                return
        # A new counter begins where the account stands in final blocks, or where the deployment left it.
        used = self._chain.nonce(address)
        nonce0 = max(used, self._description.nonces.get(name, 0))
        try:
            with self._db.transaction() as tx:
                book.open_account(tx, self._deployment, name, address, nonce0)
        except Conflict:
            # Another sender was first; its row serves.
            return

    def _gas(self, one: ChainTx, address: str, report: StepReport, now_ms: int) -> int | None:
        """The gas limit; None: wait; 0: refused, so nothing is sent."""
        if one.gas is not None:
            return one.gas
        try:
            return self._chain.estimate_gas(address, one.to, one.data, one.value) * 5 // 4
        except Reverted as error:
            with self._db.reading() as tx:
                opened = book.open_txs(tx, self._deployment, account=one.account)
            if any(other.state == "sent" for other in opened):
                # It may build on what this account sent and the chain has not mined yet.
                return None
            with self._db.transaction() as tx:
                if book.move(
                    tx, one.id, before=("queued",), after="reverted", now_ms=now_ms, reason=error.reason or "reverted"
                ):
                    report.reverted.append(one.id)
            return 0
        except NoFunds as error:
            self._alarm("empty_balance", one.account, error.message, now_ms)
            return None

    def _sign_first(self, one: ChainTx, gas: int, max_fee: int, fees: Fees, now_ms: int) -> Attempt | None:
        self._at("before_sign")
        with self._db.transaction() as tx:
            account = book.lock_account(tx, self._deployment, one.account)
            if account is None or account.is_halted:
                return None
            if len(book.open_txs(tx, self._deployment, account=one.account)) >= self._settings.unfinal_max:
                return None
            head = book.queued_txs(tx, self._deployment, one.account, 1)
            if not head or head[0].id != one.id:
                return None
            nonce = book.give_nonce(tx, self._deployment, account, one.id, now_ms=now_ms)
            if nonce is None:
                return None
            number = len(book.attempts_of(tx, [one.id])[one.id])
            attempt = self._sign(one, nonce, number, gas, max_fee, fees.priority, now_ms)
            # Stored before it is sent: after a crash in between the same bytes go out, and no nonce is spent twice.
            book.add_attempt(tx, one.id, attempt)
        return attempt

    def _sign(
        self, one: ChainTx, nonce: int, number: int, gas: int, max_fee: int, priority: int, now_ms: int
    ) -> Attempt:
        priority = min(priority, max_fee)
        raw = self._signer.sign_tx(
            one.account,
            {
                "chainId": self._description.chain_id,
                "nonce": nonce,
                "to": one.to,
                "value": one.value,
                "data": one.data,
                "gas": gas,
                "maxFeePerGas": max_fee,
                "maxPriorityFeePerGas": priority,
            },
        )
        return Attempt(number, nonce, f"0x{keccak(raw).hex()}", raw, max_fee, priority, now_ms, None)

    def _alarm(self, code: str, account: str, detail: str, now_ms: int) -> None:
        with self._db.transaction() as tx:
            raise_alarm(tx, self._deployment, code, account=account, detail=detail, now_ms=now_ms)


def resume_account(db: Database, chain: Chain, name: str, *, now_ms: int) -> int:
    """Let a halted account go on after a person has dealt with the foreign chain_tx; gives its new ``nonce0``.

    What was lost is queued again, save anchors, of which the anchorer makes one new.

    Raises:
        Rejected: ``unknown_account``.
        Conflict: ``not_settled`` while chain_txs of the account are neither final nor lost.
    """
    with db.reading() as tx:
        deployment, _ = current_deployment(tx)
        account = next((one for one in book.accounts(tx, deployment) if one.name == name), None)
        attempts = book.attempts_of(tx, [one.id for one in book.lost_txs(tx, deployment, name)])
    if account is None:
        raise Rejected(f"The account {name} has sent nothing here.", code="unknown_account")
    # A node behind the others may have hidden a receipt: what was mined must not be queued a second time.
    found = [ident for ident, tried in attempts.items() if any(chain.receipt(one.tx_hash) for one in tried)]
    if found:
        with db.transaction() as tx:
            for ident in found:
                book.revive(tx, ident, now_ms=now_ms)
        raise Conflict("A chain_tx that seemed lost was mined after all; wait.", code="not_settled")
    used = chain.nonce(account.address)
    if used != chain.nonce(account.address, chain.final_block_number()):
        raise Conflict("The account has chain_txs that are not final yet; wait.", code="not_settled")
    with db.transaction() as tx:
        if book.open_txs(tx, deployment, account=name):
            raise Conflict("The account has chain_txs that are not final yet; wait.", code="not_settled")
        return book.restart_account(tx, deployment, name, nonce0=used, now_ms=now_ms)
