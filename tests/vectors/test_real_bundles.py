"""Bundles that the ledger makes of a whole supply chain: every reader sees what it may, and both verifiers agree."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from core.bundle import Answers
from core.canonical import canonical_bytes, unb64u
from core.proofs import Policy, Report, questions, verify
from ledger.database import open_database, upgrade
from ledger.disclosure import Reader
from ledger.proofs import build_bundle
from tests.story import Story, tell
from tests.vectors.test_mutated_bundles import Log, expected_of, in_node, in_python, told
from tests.vectors.test_third_verifier import expected, in_third
from tracebond.verify import render

READERS: tuple[Reader, ...] = ("consumer", "partner", "bank", "regulator")
# The policy in words: a consumer sees places, readings, lots and containers; a partner all of the goods' side, but no
# trade documents; banks and regulators all. Never shown to a consumer: other items, quantities, documents, parties.
CONSUMER_NEVER = {"epcList", "childEPCs", "inputEPCList", "outputEPCList", "quantityList", "childQuantityList"}
CONSUMER_NEVER |= {"inputQuantityList", "outputQuantityList", "bizTransactionList", "sourceList", "destinationList"}


@dataclass
class Told:
    story: Story
    log: Log
    bundles: dict[tuple[str, Reader], bytes]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("real")
    database = open_database(f"sqlite:///{folder}/story.db")
    upgrade(database)
    story = tell(database, folder)
    bundles: dict[tuple[str, Reader], bytes] = {}
    with database.reading() as tx:
        for name in ("sold_tin", "lot", "box"):
            for reader in READERS:
                item = story.highlight(name)
                bundles[name, reader] = build_bundle(tx, story.maps, story.place, item, reader=reader)
    known = {
        f"{question.to} {question.data}": "0x" + story.chain.call(question.to, bytes.fromhex(question.data[2:])).hex()
        for data in bundles.values()
        for question in questions(data)
    }
    policy = Policy(story.place.contract)
    yield Told(story, Log("story", known, story.place.chain_id, story.place.genesis, policy), bundles)
    database.close()


def members(data: bytes) -> set[str]:
    """The names of all members that a bundle discloses."""
    entries = json.loads(data)["entries"]
    return {json.loads(unb64u(text))[1] for entry in entries for text in entry.get("disclosures", [])}


def names(data: bytes) -> set[str]:
    """The codes that a bundle tells in its histories."""
    return {h["name"][1] for h in json.loads(data)["histories"] if "name" in h and h["name"][0] == "item"}


def report_of(chain: Told, data: bytes) -> Report:
    report = in_python(chain.log, data)
    assert isinstance(report, Report), report
    return report


def test_each_reader_sees_what_the_policy_lets_it_see(chain: Told) -> None:
    for name in ("sold_tin", "lot", "box"):
        seen = {reader: members(chain.bundles[name, reader]) for reader in READERS}

        assert seen["consumer"] & CONSUMER_NEVER == set()
        assert {"readPoint", "bizLocation"} <= seen["consumer"] < seen["partner"]
        assert "bizTransactionList" not in seen["partner"]
        assert seen["bank"] == seen["regulator"]
        assert seen["bank"] - seen["partner"] <= {"bizTransactionList"}


def test_a_consumer_is_not_told_the_codes_of_suppliers_lots_but_their_histories_are_proven(chain: Told) -> None:
    mine, full = chain.bundles["sold_tin", "consumer"], chain.bundles["sold_tin", "partner"]
    report, whole = report_of(chain, mine), report_of(chain, full)

    kept = names(full) - names(mine)
    assert kept
    assert report.unnamed == len(kept)
    assert whole.unnamed == 0
    assert (report.coverage, report.uncovered) == (whole.coverage, whole.uncovered) == ("whole", 0)
    assert all(code.encode() not in mine for code in kept if "/10/" in code)


def test_the_same_history_is_proven_to_every_reader_and_what_is_hidden_is_counted(chain: Told) -> None:
    reports = [report_of(chain, chain.bundles["sold_tin", reader]) for reader in READERS]

    assert len({(r.root, r.size, r.coverage, len(r.events)) for r in reports}) == 1
    hidden = [r.hidden for r in reports]
    assert hidden == sorted(hidden, reverse=True)
    assert hidden[0] > 0
    assert hidden[-1] == 0


def test_the_auditors_command_tells_what_is_not_shown(chain: Told) -> None:
    report = report_of(chain, chain.bundles["sold_tin", "consumer"])

    text = render(report, as_json=False)
    document = json.loads(render(report, as_json=True))

    assert f"not shown to this reader: {report.hidden} fields of its events" in text
    assert f"the codes of {report.unnamed} of these" in text
    assert document["not_shown"] == report.hidden > 0
    assert document["not_shown_related"] == report.hidden_related > 0
    everything = report_of(chain, chain.bundles["sold_tin", "regulator"])
    assert "fields not shown" not in render(everything, as_json=False)


def test_both_verifiers_agree_on_real_bundles_and_on_changed_ones(chain: Told) -> None:
    cases = []
    for data in chain.bundles.values():
        cases.append(data)
    bundle = json.loads(chain.bundles["lot", "consumer"])
    for position in range(0, len(bundle["entries"]), 9):
        changed = copy.deepcopy(bundle)
        del changed["entries"][position]
        cases.append(canonical_bytes(changed))
        changed = copy.deepcopy(bundle)
        changed["entries"][position]["path"][0] = bundle["entries"][position - 1]["path"][0]
        cases.append(canonical_bytes(changed))

    results = in_node([(chain.log, data) for data in cases])

    verdicts = [in_python(chain.log, data) for data in cases]
    for verdict, result in zip(verdicts, results, strict=True):
        if isinstance(verdict, Report):
            assert told(result["report"]) == expected_of(verdict)
        else:
            assert result == {"refused": verdict}
    assert sum(isinstance(verdict, Report) for verdict in verdicts) == len(chain.bundles)


def test_a_verifier_written_from_the_document_alone_says_the_same_of_real_bundles(chain: Told) -> None:
    for data in chain.bundles.values():
        assert in_third(chain.log, data) == expected(report_of(chain, data))


def test_a_bundle_of_another_log_on_the_contract_names_what_it_does_not_cover(chain: Told) -> None:
    data = chain.bundles["lot", "consumer"]
    answers = chain.log.answers(data)
    two_logs = (*answers.calls[:2], (2).to_bytes(32, "big"), *answers.calls[3:])

    report = verify(data, Answers(answers.chain_id, answers.genesis, two_logs), chain.log.policy)

    assert report.other_logs == 1
    assert "not covered: 1 other logs on the contract" in render(report, as_json=False)
