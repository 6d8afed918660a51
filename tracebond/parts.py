"""The open parts of a process: database, chain, keys, contracts; checked against one another before anything starts."""

import hmac
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from contracts.chain import Chain
from contracts.deploy import Deployment, deploy, save_deployment
from contracts.inorder import replace_file
from contracts.opening import open_chain
from contracts.signer import Signer, open_signer
from core.identifiers import org_id
from finance.model import k_check
from ledger.chain_book import check_start
from ledger.chain_logs import present
from ledger.chain_tx import ChainSender, SenderSettings
from ledger.database import Database, open_database, upgrade
from ledger.keyfiles import KeyFiles
from ledger.proofs import LogPlace
from ledger.store import set_identity
from tracebond.loops import now_ms
from tracebond.settings import Settings

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Parts:
    """What every process of one deployment stands on."""

    settings: Settings
    db: Database
    chain: Chain
    signer: Signer
    keyfiles: KeyFiles
    deployment: Deployment
    goods_secret: bytes

    @property
    def operator(self) -> str:
        """The operator's organisation id."""
        return org_id(self.settings.operator_gln)

    @property
    def place(self) -> LogPlace:
        """Where the log is anchored."""
        found = self.deployment
        return LogPlace(
            contract=found.log_contract,
            registry=found.organisations,
            log_id=found.log_id,
            chain_id=found.chain_id,
            genesis=found.genesis_hash,
        )

    def sender(self) -> ChainSender:
        """What signs and sends chain_txs; any number may be alive."""
        cap = self.settings.fee_cap_gwei * 10**9
        return ChainSender(self.db, self.chain, self.signer, SenderSettings(fee_cap_wei=cap))

    def close(self) -> None:
        """Give back database and chain."""
        self.chain.close()
        self.db.close()


@contextmanager
def open_books(settings: Settings) -> Iterator[Database]:
    """The database alone, for work that needs neither chain nor broker."""
    db = open_database(settings.database)
    try:
        upgrade(db)
        yield db
    finally:
        db.close()


def open_parts(settings: Settings, *, new_chain: bool = False, say: Callable[[str], None] = lambda text: None) -> Parts:
    """Open everything, deploy the contracts the first time, and refuse parts that do not belong together.

    Raises:
        Unavailable: a part is away. Broken: the chain or the database is not the recorded one.
    """
    data = settings.data.absolute()
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    say("opening the database")
    db = open_database(settings.database)
    upgrade(db)
    keyfiles = KeyFiles(data / "keys")
    signer = open_signer(
        data / "keys",
        settings.key_passphrase or None,
        module=settings.pkcs11_module,
        token=settings.pkcs11_token,
        pin_file=Path(settings.pkcs11_pin_file) if settings.pkcs11_pin_file else None,
    )
    say("opening the chain")
    chain = open_chain(settings.chain_url or None, data, finality_depth=settings.finality_depth or None)
    secret = _goods_secret(data / "keys" / "goods.secret")
    say("checking the contracts")
    deployment = deploy(
        chain,
        signer,
        data,
        origin=settings.origin,
        checkpoint_key=keyfiles.checkpoint.public.raw,
        k_check=k_check(secret),
        is_new_chain=new_chain,
    )
    newest = present(db, deployment)
    if newest != deployment:
        save_deployment(data, newest)
        deployment = newest
    check_start(db, chain, deployment, now_ms=now_ms(), is_new_chain=new_chain)
    with db.transaction() as tx:
        set_identity(tx, aud=settings.service_id, log=settings.origin)
    return Parts(settings, db, chain, signer, keyfiles, deployment, secret)


def _goods_secret(path: Path) -> bytes:
    """The registry's secret K, one for life: it hides goods keys from whoever scans a product."""
    if not path.exists():
        replace_file(path, secrets.token_bytes(32).hex().encode())
    secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
    if not hmac.compare_digest(len(secret).to_bytes(2), (32).to_bytes(2)):
        raise ValueError("goods.secret does not hold 32 bytes")
    return secret
