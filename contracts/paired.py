"""Two nodes of one chain, of which neither alone can make us call anything final."""

from contracts.chain import ZERO_ADDRESS, Block, BlockTag, Chain, ChainReceipt, Fees, WrongChain
from core.errors import Unavailable


class NodesDisagree(Unavailable):
    """The two nodes tell different stories; nothing is final until they agree."""

    code = "nodes_disagree"


class PairedChain(Chain):
    """Sends by the first node; blocks, receipts and calls at a number count only when both nodes say the same."""

    def __init__(self, first: Chain, second: Chain) -> None:
        if (first.chain_id, first.genesis_hash) != (second.chain_id, second.genesis_hash):
            raise WrongChain("The two nodes are nodes of different chains.")
        self.chain_id, self.genesis_hash = first.chain_id, first.genesis_hash
        self.description = f"{first.description} and {second.description}"
        self._first, self._second = first, second

    def block(self, tag: BlockTag) -> Block | None:
        """By tag the first node's; by number only what both hold."""
        block = self._first.block(tag)
        if isinstance(tag, int) and block != self._second.block(tag):
            raise NodesDisagree(f"The two nodes hold different blocks {tag}.")
        return block

    def final_block_number(self) -> int:
        """The lower of the two."""
        return min(self._first.final_block_number(), self._second.final_block_number())

    def code(self, address: str) -> bytes:
        """The code, when both say the same."""
        code = self._first.code(address)
        if code != self._second.code(address):
            raise NodesDisagree(f"The two nodes hold different code at {address}.")
        return code

    def call(self, to: str, data: bytes, block: BlockTag = "latest", *, sender: str = ZERO_ADDRESS) -> bytes:
        """At ``latest`` the first node's answer; at a number only what both answer; ``finalized`` is the lower one."""
        if block == "latest":
            return self._first.call(to, data, block, sender=sender)
        number = self.final_block_number() if block in ("finalized", "safe") else block
        answer = self._first.call(to, data, number, sender=sender)
        if answer != self._second.call(to, data, number, sender=sender):
            raise NodesDisagree(f"The two nodes give different answers for {to} at block {number}.")
        return answer

    def estimate_gas(self, sender: str, to: str | None, data: bytes, value: int = 0) -> int:
        """The first node's estimate."""
        return self._first.estimate_gas(sender, to, data, value)

    def nonce(self, address: str, block: BlockTag = "latest") -> int:
        """The lower of the two: a nonce is used when both nodes say so."""
        return min(self._first.nonce(address, block), self._second.nonce(address, block))

    def balance(self, address: str) -> int:
        """The first node's answer."""
        return self._first.balance(address)

    def fees(self) -> Fees:
        """The first node's answer."""
        return self._first.fees()

    def send_raw(self, raw: bytes) -> str:
        """By the first node."""
        return self._first.send_raw(raw)

    def receipt(self, tx_hash: str) -> ChainReceipt | None:
        """None until both nodes hold the receipt."""
        mine, other = self._first.receipt(tx_hash), self._second.receipt(tx_hash)
        if mine is None or other is None:
            return None
        if mine != other:
            raise NodesDisagree(f"The two nodes hold different receipts of {tx_hash}.")
        return mine

    def settle(self, number: int) -> None:
        """By the first node."""
        self._first.settle(number)

    def close(self) -> None:
        """Close both."""
        self._first.close()
        self._second.close()
