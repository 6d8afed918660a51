"""Ways out of an application, consent, and a name that is like a listed one."""

from typing import Any

import pytest

from core.errors import Rejected
from finance import applications, consents, exits, lending, reviews, screening
from finance.casetables import consents as consents_table
from finance.casetables import limit_reviews, screening_hits
from finance.tables import applications as applications_table
from finance.tables import command_log, facilities
from tests.finance.test_credit import apply, approve, consent, pledged, prepare, receipt, refused, states
from tests.finance.world import (
    BANK,
    BORROWER,
    CHECKER,
    FEATURES,
    MAKER_OF_BANK,
    OTHER_OFFICER,
    OWNER,
    FinanceWorld,
    actor,
)

LIST = "id,name_zh,name_en,source\n17,王小明,Wang Xiaoming,un\n18,东方贸易有限公司,Orient Trading Co. Ltd,un\n"


def controlled_by(world: FinanceWorld, name: str, **more: Any) -> None:
    world.do(
        applications.record_borrower, MAKER_OF_BANK, borrower=OWNER, controller=name, has_account=True,
        features=FEATURES, **more,
    )  # fmt: skip


def held(world: FinanceWorld) -> Any:
    world.do(screening.import_list, MAKER_OF_BANK, text=LIST)
    prepare(world)
    controlled_by(world, "XIAOMING, Wang")
    receipt(world)
    return apply(world)


def settle(world: FinanceWorld, application: str, *, is_cleared: bool, who: Any = CHECKER) -> Any:
    given = {"application": application, "is_cleared": is_cleared}
    asked = world.do(exits.propose_screening, MAKER_OF_BANK, **given)
    proof = {"request": asked["request"], "proposal": asked["proposal"]}
    return world.do(exits.settle_screening, who, **given, **proof)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Wang Xiaoming", "XIAOMING, WANG"), ("Orient Trading Co. Ltd", "orient  trading"),
        ("东方贸易有限公司", "东方贸易有限责任公司"), ("José Müller", "Jose Muller"),
        ("ORIENT-TRADING", "orient trading"),
    ],
)  # fmt: skip
def test_spellings_of_one_name_are_one_name(one: str, other: str) -> None:
    assert screening.normalised(one) == screening.normalised(other)


@pytest.mark.unit
def test_likeness_is_the_share_of_letters_that_stay() -> None:
    # kitten to sitting: 13 letters in all, 5 are put in or taken out.
    assert screening.likeness("kitten", "sitting") * 13 == 8
    assert screening.likeness("", "x") == 0


def test_a_name_like_a_listed_one_holds_until_two_persons_clear_it(world: FinanceWorld) -> None:
    done = held(world)
    assert (done["state"], done["hits"]) == ("HELD", 1)
    assert "Wang" not in str(done)
    refused("illegal_transition", approve, world, done, CHECKER)

    refused("own_command", settle, world, done["application"], is_cleared=True,
            who=actor(BANK, MAKER_OF_BANK.person, "bank_checker"))  # fmt: skip
    cleared = settle(world, done["application"], is_cleared=True)

    assert cleared["state"] == "IN_REVIEW"
    assert [row.state for row in world.query(screening_hits)] == ["CLEARED"]
    assert approve(world, cleared)["state"] == "APPROVED"


def test_a_confirmed_hit_declines(sqlite_world: FinanceWorld) -> None:
    done = held(sqlite_world)

    assert settle(sqlite_world, done["application"], is_cleared=False)["state"] == "DECLINED"
    refused("illegal_transition", settle, sqlite_world, done["application"], is_cleared=True)


def test_a_borrower_under_its_legal_name_is_found_and_other_names_pass(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    world.do(screening.import_list, MAKER_OF_BANK, text=LIST)
    prepare(world)
    receipt(world)
    assert apply(world)["state"] == "IN_REVIEW"

    controlled_by(world, "controller", legal_name="东方贸易股份有限公司")
    assert apply(world)["state"] == "HELD"
    # A new version of the list counts alone.
    world.do(screening.import_list, MAKER_OF_BANK, text="id,name_zh,name_en,source\n1,别人,Somebody Else,un\n")
    assert apply(world)["state"] == "IN_REVIEW"


@pytest.mark.parametrize("text", ["", "id,name\n1,x\n", LIST + "17,a,b,un\n", "id,name_zh,name_en,source\n1,,,un\n"])
def test_a_list_of_another_form_is_refused(sqlite_world: FinanceWorld, text: str) -> None:
    with pytest.raises(Rejected):
        sqlite_world.do(screening.import_list, MAKER_OF_BANK, text=text)


def test_a_returned_application_is_decided_anew(world: FinanceWorld) -> None:
    prepare(world)
    receipt(world)
    first = apply(world)
    given = {"application": first["application"]}

    refused("unknown_reason", world.do, exits.return_application, CHECKER, reason_code="mood", **given)
    world.do(exits.return_application, CHECKER, reason_code="amount", **given)
    assert world.query(applications_table)[0].note == "amount: test"
    refused("illegal_transition", approve, world, first)
    again = world.do(exits.resubmit_application, BORROWER, amount="20000.00", tenor_days=60, **given)

    assert (again["state"], again["application"]) == ("IN_REVIEW", first["application"])
    refused("changed_since_seen", approve, world, first)
    assert approve(world, again)["state"] == "APPROVED"


def test_an_offer_that_nobody_accepts_expires(world: FinanceWorld) -> None:
    prepare(world)
    receipt(world)
    approve(world, apply(world))
    with world.database.transaction() as tx:
        assert exits.lapse_offers(tx, world.ctx, now=world.clock) == []
        assert len(exits.lapse_offers(tx, world.ctx, now=world.clock + 2_592_000)) == 1

    assert states(world)["fin_applications"] == ["EXPIRED"]


def test_data_are_used_only_with_consent_and_each_use_is_logged(world: FinanceWorld) -> None:
    refused("consent_needed", controlled_by, world, "controller")
    consent(world, purpose="statistics")
    refused("consent_needed", controlled_by, world, "controller")
    prepare(world)
    receipt(world)
    apply(world)

    rows = [row for row in world.query(command_log) if row.name == "read_borrower_data"]
    assert len(rows) == 1
    assert '"purpose":"credit"' in rows[0].body
    assert '["account","credit_bureau","sales","tax"]' in rows[0].result


def test_withdrawn_and_expired_consent_stop_new_decisions(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    offer = pledged(world)
    draw = {"facility": offer["facility"], "amount": "1.00"}
    tax = next(row.id for row in world.query(consents_table) if row.source == "tax")
    world.clock += 300 * 86_400
    refused("consent_needed", world.do, lending.draw, BORROWER, **draw)
    world.clock -= 300 * 86_400
    refused("no_such_consent", world.do, consents.withdraw_consent, actor(BANK, "b", "borrower"), consent=tax)
    world.do(consents.withdraw_consent, BORROWER, consent=tax)

    refused("consent_needed", world.do, lending.draw, BORROWER, **draw)
    assert [row.state for row in world.query(facilities)] == ["ACTIVE"]


def test_a_limit_follows_the_features_and_says_why(world: FinanceWorld) -> None:
    offer = pledged(world)
    assert reviews.review_limits(world.database, world.ctx, now=world.clock) == []
    weak = FEATURES | {name: FEATURES[name] | {"value": "0.3"} for name in ("account", "tax")}  # type: ignore[operator]
    world.do(
        applications.record_borrower, MAKER_OF_BANK, borrower=OWNER, controller="controller", has_account=True,
        features=weak,
    )  # fmt: skip

    assert reviews.review_limits(world.database, world.ctx, now=world.clock) == [offer["facility"]]
    assert reviews.review_limits(world.database, world.ctx, now=world.clock) == []

    # 75 + 60 + 105 + 160 points and at most 199 of the goods: grade D, advance rate .35 on 57,600 is 20,160.
    row = world.query(limit_reviews)[0]
    assert (row.limit_before, row.limit_after, row.cause) == (3_000_000, 2_000_000, "features_changed")
    assert world.query(facilities)[0].limit_minor == 2_000_000
    with world.database.reading() as tx:
        decision = reviews.replay_review(tx, offer["facility"], 1)
    assert len(decision["reasons"]) <= 4
    assert all(reason["remedy"] for reason in decision["reasons"] if reason["code"].startswith("rating_"))


def test_features_that_grew_old_lower_the_limit(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    offer = pledged(world)
    old = {name: FEATURES[name] | {"as_of": "2020-01-01"} for name in ("account", "sales")}  # type: ignore[operator]
    world.do(
        applications.record_borrower, MAKER_OF_BANK, borrower=OWNER, controller="controller", has_account=True,
        features=FEATURES | old,
    )  # fmt: skip

    done = world.do(reviews.review_limit, MAKER_OF_BANK, facility=offer["facility"])

    assert done["limit"] < done["before"]
    assert {"stale_account", "stale_sales"} <= {reason["code"] for reason in done["reasons"]}
    refused("no_such_facility", world.do, reviews.review_limit, OTHER_OFFICER, facility=offer["facility"])
