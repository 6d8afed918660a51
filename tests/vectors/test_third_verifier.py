"""The document is enough: a verifier written from it alone accepts what both accept and refuses what both refuse."""

from collections.abc import Iterator

import pytest

from core.proofs import Report
from tests.vectors import mutations
from tests.vectors.test_mutated_bundles import Log, encoded, in_python, sources
from tests.vectors.third_verifier import Refused, Verifier

FIELDS = ("coverage", "uncovered", "completeness", "other_logs", "unnamed")


def in_third(log: Log, data: bytes) -> dict[str, object] | str:
    def ask(to: str, calldata: str) -> bytes:
        nothing = "0x" + "00" * 32 if calldata.startswith("0xdfe4bf36") else "0x"
        return bytes.fromhex(log.known.get(f"{to} {calldata}", nothing)[2:])

    policy = log.policy
    try:
        found = Verifier(data, ask, (log.chain_id, log.genesis), policy.log_contract, policy.mirrors)
        return found.run()
    except Refused as error:
        return str(error)


def expected(report: Report) -> dict[str, object]:
    told = {name: getattr(report, name) for name in FIELDS}
    return told | {"events": len(report.events), "suspect": sum(event.is_suspect for event in report.events)}


def good() -> Iterator[tuple[Log, bytes]]:
    for source in sources():
        for data in (encoded(source.bundle), encoded(source.other)):
            yield source.log, data
        for _, data in (*mutations.weaker(source.bundle), *mutations.omitted(source.bundle)):
            yield source.log, data


def test_it_says_of_each_bundle_what_the_first_verifier_says() -> None:
    accepted = 0
    for log, data in good():
        first, third = in_python(log, data), in_third(log, data)
        if isinstance(first, Report):
            assert third == expected(first)
            accepted += 1
        else:
            assert isinstance(third, str)
    assert accepted > 50


@pytest.mark.timeout(180)
def test_it_refuses_every_forged_bundle_of_the_corpus() -> None:
    accepted = []
    for number, source in enumerate(sources()):
        for name, data in mutations.refused(source.bundle, source.other, seed=number, per_kind=1):
            if not isinstance(in_third(source.log, data), str):
                accepted.append((source.log.name, name))
    assert accepted == []
