"""What a mirror asks a node of its own choice: the contract's log, organisations, and whether blocks are there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts.rpc import RpcClient, ask
from core.bundle import LOG_AT, LOG_COUNT, ORGANISATION_AT, ORGANISATIONS, ROOT_AT, Question
from core.canonical import b64u
from core.errors import Conflict, Rejected
from core.prefixmap import map_key

VERSION_COUNT = "fc0562c8"
_WORD = 32
_BLOCKS_PER_CALL = 50


@dataclass(frozen=True)
class Tip:
    """The contract's view of the log: origin's hash, checkpoint key, newest final anchored size and its root."""

    origin_hash: bytes
    checkpoint_key: bytes
    size: int
    root: bytes
    is_frozen: bool
    last_good: int


@dataclass(frozen=True)
class OnChain:
    """One version of an organisation in the registry."""

    kid: str
    account: str
    roles: int
    block: int


class ChainView:
    """The pinned contract behind a node; every answer is bound to the chain that was pinned.

    Args:
        chain: (chain id, genesis hash) that must answer; None on the first use, when they are pinned.
    """

    def __init__(self, url: str, contract: str, chain: tuple[int, str] | None = None) -> None:
        self._url = url
        self.contract = contract.lower()
        if len(self.contract) != 42 or not self.contract.startswith("0x"):
            raise Rejected("The log contract is an address: 0x and 40 hex digits.", code="bad_address")
        self.chain = chain

    def open(self) -> tuple[int, str, int]:
        """Registry, newest log that is not frozen, and number of logs; pins the chain when none is.

        Raises:
            Rejected: ``wrong_contract`` when the address does not answer like a TransparencyLog with a log.
        """
        registry, count = self._ask([Question(self.contract, f"0x{ORGANISATIONS}"), self._of(LOG_COUNT)])
        logs = int.from_bytes(count)
        if len(registry) != _WORD or len(count) != _WORD or logs == 0:
            raise Rejected("The address does not answer like a TransparencyLog with a log.", code="wrong_contract")
        live = next((number for number in range(logs - 1, -1, -1) if not self.tip(number).is_frozen), logs - 1)
        return logs, "0x" + registry[12:].hex(), live

    def tip(self, log_id: int) -> Tip:
        """The log as of the newest final block."""
        data = self._ask([self._of(LOG_AT, log_id)])[0]
        if len(data) != 7 * _WORD:
            raise Rejected("The address does not answer like a TransparencyLog.", code="wrong_contract")
        words = [data[at : at + _WORD] for at in range(0, len(data), _WORD)]
        return Tip(words[0], words[1], _int(words[3]), words[4], bool(_int(words[5])), _int(words[6]))

    def root_at(self, log_id: int, size: int) -> bytes | None:
        """The anchored root at a size, None when there is none."""
        root = self._ask([self._of(ROOT_AT, log_id, size)])[0]
        return None if root == bytes(_WORD) else root

    def organisations(self, registry: str, wanted: Sequence[tuple[str, int]]) -> list[OnChain]:
        """Each (organisation, version) as the registry has it; zeros where it has none."""
        calls = [Question(registry, f"0x{ORGANISATION_AT}{map_key('org', o).hex()}{v:064x}") for o, v in wanted]
        found = []
        for data in self._ask(calls):
            words = [data[at : at + _WORD] for at in range(0, len(data), _WORD)]
            if len(words) != 4:
                raise Rejected("The registry does not answer like an OrganisationRegistry.", code="wrong_contract")
            found.append(OnChain(b64u(words[0]), "0x" + words[1][12:].hex(), _int(words[2]), _int(words[3])))
        return found

    def version_counts(self, registry: str, orgs: Sequence[str]) -> list[int]:
        """How many versions the registry has of each organisation."""
        calls = [Question(registry, f"0x{VERSION_COUNT}{map_key('org', org).hex()}") for org in orgs]
        return [_int(data) for data in self._ask(calls)]

    def block_hashes(self, numbers: Sequence[int]) -> Mapping[int, str]:
        """The hash of each of these blocks that the chain has."""
        client = RpcClient(self._url)
        wanted = sorted(set(numbers))
        found: dict[int, str] = {}
        for start in range(0, len(wanted), _BLOCKS_PER_CALL):
            part = wanted[start : start + _BLOCKS_PER_CALL]
            for number, block in zip(
                part, client.batch([("eth_getBlockByNumber", [hex(n), False]) for n in part]), strict=True
            ):
                if isinstance(block, dict) and isinstance(block.get("hash"), str):
                    found[number] = block["hash"].lower()
        return found

    def _of(self, selector: str, *words: int) -> Question:
        return Question(self.contract, f"0x{selector}" + "".join(f"{word:064x}" for word in words))

    def _ask(self, questions: Sequence[Question]) -> Sequence[bytes]:
        if not questions:
            return ()
        answers = ask(self._url, questions)
        if self.chain is None:
            self.chain = (answers.chain_id, answers.genesis)
        elif self.chain != (answers.chain_id, answers.genesis):
            raise Conflict("The node answers for another chain than the one pinned here.", code="wrong_chain")
        return answers.calls


def _int(word: bytes) -> int:
    return int.from_bytes(word)
