"""The chain that a setting names: our own, one node, or two that must agree."""

from pathlib import Path

from contracts.chain import Chain
from contracts.paired import PairedChain
from contracts.remote import RemoteChain
from contracts.tester import open_tester
from core.errors import Broken


def open_chain(
    url: str | None,
    data_dir: Path,
    *,
    finality_depth: int | None = None,
    timeout_s: float = 10.0,
    genesis_salt: bytes | None = None,
) -> Chain:
    """The chain at ``url``, or the persistent eth-tester chain in ``data_dir/chain.db``.

    Args:
        url: http(s) address of a node; two, separated by a comma, must agree on whatever is called final; None or ""
            for the built-in chain.
        data_dir: folder for the built-in chain.
        finality_depth: blocks on top of a block that make it final; None asks the node for its ``finalized`` block.
        timeout_s: for each question to a node.
        genesis_salt: up to 32 bytes that make the genesis of a new built-in chain; random when None, so that a chain
            started over is another chain.

    Raises:
        Unavailable: no answer.
        WrongChain: two nodes of different chains.
        Broken: the address is none.
    """
    if not url:
        return open_tester(data_dir / "chain.db", genesis_salt)
    parts = [part.strip() for part in url.split(",") if part.strip()]
    if not 1 <= len(parts) <= 2 or not all(part.startswith(("http://", "https://")) for part in parts):
        raise Broken("A chain is named by one or two http(s) addresses.", code="bad_setting")
    chains = [RemoteChain(part, finality_depth=finality_depth, timeout_s=timeout_s) for part in parts]
    return chains[0] if len(chains) == 1 else PairedChain(chains[0], chains[1])
