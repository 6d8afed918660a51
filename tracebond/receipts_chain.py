"""The receipt auditor's questions to the chain that a process of ours has open."""

from contracts.clients import OrganisationRegistryClient, TransparencyLogClient
from core.errors import Rejected
from core.prefixmap import map_key


class ChainContract:
    """The contracts through an open chain, at its final block where it has one."""

    def __init__(self, log: TransparencyLogClient, registry: OrganisationRegistryClient) -> None:
        self._log, self._registry = log, registry

    def head(self, origin: bytes) -> tuple[int, bytes]:
        """Size and root of the newest log of this origin."""
        for log_id in reversed(range(self._log.log_count(block="finalized"))):
            head = self._log.log_at(log_id, block="finalized")
            if head.origin_hash == origin:
                return head.size, head.root
        raise Rejected("The contract keeps no log of this origin.", code="wrong_log")

    def organisation(self, org: str, version: int) -> tuple[bytes, int] | None:
        """Thumbprint and roles of an organisation's version."""
        key = map_key("org", org)
        if self._registry.version_count(key, block="finalized") <= version:
            return None
        found = self._registry.organisation_at(key, version, block="finalized")
        return found.record_key, int(found.roles)
