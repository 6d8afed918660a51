"""Chain_txs one after the other before there is a database: on the disk before they are sent, so sent once."""

import json
import os
import time
from pathlib import Path
from typing import Any

from contracts.chain import Chain, ChainReceipt, FeeTooLow, MaybeSent, NoFunds, Reverted
from contracts.signer import Signer, sync_folder
from core.errors import Conflict, Rejected, Unavailable

POLL_S = 0.5
BUMP_AFTER_S = 20.0
WAIT_S = 300.0
_PLAIN_GAS = 21_000


class InOrder:
    """Named steps, each one chain_tx, one after the other.

    The journal is a JSON file of this chain's steps: account, nonce and every signed attempt. A step that stands there
    is never signed with another nonce, unless its own was used up by somebody else in a final block.
    """

    def __init__(
        self, chain: Chain, signer: Signer, journal: Path, *, wait_s: float = WAIT_S, poll_s: float = POLL_S
    ) -> None:
        self._chain, self._signer, self._journal = chain, signer, journal
        self._wait_s, self._poll_s = wait_s, poll_s
        self._steps: dict[str, dict[str, Any]] = self._load()

    def run(self, step: str, account: str, to: str | None, data: bytes, *, value: int = 0) -> ChainReceipt:
        """Send the step's chain_tx if it was not, and wait until it is in a block; :meth:`finish` waits for finality.

        Raises:
            Reverted: the contract refused it.
            NoFunds: the account cannot pay.
            Unavailable: not there in time; run again to go on.
        """
        self._prepare(step, account, to, data, value)
        return self._wait(step, until_final=False)

    def finish(self) -> dict[str, ChainReceipt]:
        """Wait until every step is final, sending again what a reorganisation took out; their receipts then."""
        return {step: self._wait(step, until_final=True) for step in list(self._steps)}

    def _wait(self, step: str, *, until_final: bool) -> ChainReceipt:
        deadline = time.monotonic() + self._wait_s
        bump_at = time.monotonic() + BUMP_AFTER_S
        pause = 0.001 if self._chain.is_tester else min(0.02, self._poll_s)
        while True:
            receipt = self._receipt(step)
            if receipt is not None:
                if receipt.is_success and not until_final:
                    return receipt
                if self._is_final(receipt):
                    if not receipt.is_success:
                        raise Reverted(f"step {step}")
                    return receipt
            elif self._is_taken(step):
                entry = self._steps.pop(step)
                tx = entry["tx"]
                self._prepare(step, entry["account"], tx["to"], bytes.fromhex(tx["data"]), tx["value"])
            else:
                if time.monotonic() > bump_at and not self._chain.is_tester:
                    bump_at = time.monotonic() + BUMP_AFTER_S
                    self._bump(step)
                self._send(step)
            if time.monotonic() > deadline:
                raise Unavailable(f"The step {step} is not final on {self._chain.description} yet.", code="not_final")
            time.sleep(pause)
            pause = min(self._poll_s, pause * 1.5)

    def nonces(self) -> dict[str, int]:
        """Per account the next nonce after these steps."""
        counts: dict[str, int] = {}
        for entry in self._steps.values():
            counts[entry["account"]] = max(counts.get(entry["account"], 0), entry["tx"]["nonce"] + 1)
        return counts

    def _prepare(self, step: str, account: str, to: str | None, data: bytes, value: int) -> None:
        if step in self._steps:
            entry = self._steps[step]
            if (entry["tx"]["to"], entry["tx"]["data"], entry["tx"]["value"]) != (to, data.hex(), value):
                raise Conflict(f"The step {step} was begun with other contents.", code="other_contents")
            return
        sender = self._signer.address(account)
        gas = _PLAIN_GAS if not data and to else self._chain.estimate_gas(sender, to, data, value) * 5 // 4
        fees = self._chain.fees()
        mine = self.nonces().get(account)
        tx = {
            "chainId": self._chain.chain_id,
            "nonce": self._chain.nonce(sender) if mine is None else max(mine, self._used(sender)),
            "to": to,
            "value": value,
            "data": data.hex(),
            "gas": gas,
            "maxFeePerGas": fees.base * 2 + fees.priority,
            "maxPriorityFeePerGas": fees.priority,
        }
        self._steps[step] = {"account": account, "tx": tx, "attempts": [self._sign(account, tx)]}
        self._save()

    def _used(self, sender: str) -> int:
        return self._chain.nonce(sender, self._chain.final_block_number())

    def _sign(self, account: str, tx: dict[str, Any]) -> dict[str, str]:
        from eth_utils.crypto import keccak

        raw = self._signer.sign_tx(account, {**tx, "data": bytes.fromhex(tx["data"])})
        return {"hash": f"0x{keccak(raw).hex()}", "raw": raw.hex()}

    def _bump(self, step: str) -> None:
        entry = self._steps[step]
        tx = entry["tx"]
        for name in ("maxFeePerGas", "maxPriorityFeePerGas"):
            tx[name] = bumped(tx[name])
        entry["attempts"].append(self._sign(entry["account"], tx))
        self._save()

    def _send(self, step: str) -> None:
        raw = bytes.fromhex(self._steps[step]["attempts"][-1]["raw"])
        try:
            self._chain.send_raw(raw)
        except (MaybeSent, FeeTooLow, Unavailable):
            return
        except NoFunds as error:
            name = self._steps[step]["account"]
            address = self._signer.address(name)
            raise NoFunds(f"The account {name} ({address}) cannot pay; fund it and start again.") from error

    def _receipt(self, step: str) -> ChainReceipt | None:
        for attempt in self._steps[step]["attempts"]:
            try:
                receipt = self._chain.receipt(attempt["hash"])
            except Unavailable:
                continue
            if receipt is not None:
                return receipt
        return None

    def _is_final(self, receipt: ChainReceipt) -> bool:
        try:
            self._chain.settle(receipt.block_number)
            if receipt.block_number > self._chain.final_block_number():
                return False
            return self._chain.block_hash(receipt.block_number) == receipt.block_hash
        except Unavailable:
            return False

    def _is_taken(self, step: str) -> bool:
        entry = self._steps[step]
        try:
            used = self._used(self._signer.address(entry["account"]))
            return used > entry["tx"]["nonce"] and self._receipt(step) is None
        except Unavailable:
            return False

    def _load(self) -> dict[str, dict[str, Any]]:
        if not self._journal.exists():
            return {}
        try:
            content = json.loads(self._journal.read_bytes())
            if content["chain_id"] == self._chain.chain_id and content["genesis"] == self._chain.genesis_hash:
                return dict(content["steps"])
        except (ValueError, KeyError, TypeError) as error:
            raise Rejected(f"{self._journal.name} cannot be read: {error}", code="bad_file") from error
        # The journal of a chain that is no more says nothing about this one.
        return {}

    def _save(self) -> None:
        content = {"chain_id": self._chain.chain_id, "genesis": self._chain.genesis_hash, "steps": self._steps}
        replace_file(self._journal, json.dumps(content, indent=1).encode())


def bumped(fee: int) -> int:
    """A fee that replaces another: an eighth more, where geth asks for a tenth; never the same."""
    return max(fee + 1, -(-fee * 9 // 8))


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, mode 600, on the disk when this returns."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)
