"""Confidence, valuation and borrowing base: the worked examples, and monotone (V18)."""

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import Rejected
from core.money import Money, parse_money
from finance.base import Line, borrowing_base
from finance.confidence import Reason, confidence
from finance.policy import load_policy, read_policy
from finance.ratios import availability, ltv, ltv_passes, ratio_text
from finance.tool import borrowing_base_decision, borrowing_base_text, day_count_text, schedule_text
from finance.valuation import _floor_minus_root, life_factor, quality_factor, value_line

pytestmark = pytest.mark.unit
POLICY = load_policy("v1")
ONE = {name: Fraction(1) for name in ("lot", "category", "warehouse")}


def six(*texts: str) -> list[Fraction]:
    return [Fraction(text) for text in texts]


@pytest.mark.parametrize(
    ("components", "shown", "is_eligible"),
    [
        (("1", "1", ".95", "1", ".9", "1"), "97.94", True),
        ((".8", "1", "1", "1", "1", ".5"), "88.24", True),
        (("1", ".98", ".9", ".75", ".6", "1"), "88.75", False),
        (("1", "1", "1", "1", "1", "1"), "100.00", True),
    ],
)
def test_confidence_of_the_worked_examples(components: tuple[str, ...], shown: str, is_eligible: bool) -> None:
    got = confidence(six(*components), POLICY)

    assert (got.shown, got.is_eligible) == (shown, is_eligible)


def test_a_floor_missed_is_the_first_reason() -> None:
    got = confidence(six("1", ".98", ".9", ".75", ".6", "1"), POLICY, evidence={"continuity": ["12:0"]})

    assert (got.reasons[0].code, got.reasons[0].events) == ("continuity_below_floor", ("12:0",))
    assert len(got.reasons) <= 4


def test_a_component_of_zero_makes_the_score_zero_without_a_logarithm() -> None:
    got = confidence(six("1", "0", "1", "1", "1", "1"), POLICY)

    assert (got.shown, got.is_eligible) == ("0.00", False)
    assert got.reasons[0].code == "signatures_below_floor"


def test_a_knock_out_makes_the_score_zero() -> None:
    got = confidence(six(*["1"] * 6), POLICY, knock_outs=[Reason("recall", "Recalled.", "100.00", ("3:0",))])

    assert (got.shown, got.is_eligible, got.reasons[0].code) == ("0.00", False, "recall")
    assert not got.reaches(Fraction(1))


def test_points_lost_sum_to_what_is_missing() -> None:
    got = confidence(six(".9", ".99", ".95", ".95", "1", "1"), POLICY)

    assert sum(Fraction(reason.points) for reason in got.reasons) == 100 - Fraction(got.shown)


def test_a_score_exactly_at_a_threshold_reaches_it() -> None:
    got = confidence([Fraction(9, 10)] * 6, POLICY)

    assert got.reaches(Fraction(90))
    assert not got.reaches(Fraction(90) + Fraction(1, 10**40))


@pytest.mark.parametrize("components", [["1"] * 5, ["1"] * 7, ["1.1", *["1"] * 5], ["-1", *["1"] * 5]])
def test_other_than_six_shares_are_refused(components: list[str]) -> None:
    with pytest.raises(Rejected, match="bad_component"):
        confidence(six(*components), POLICY)


@given(st.lists(st.integers(1, 100), min_size=6, max_size=6), st.integers(0, 5), st.integers(1, 20))
def test_v18_a_better_component_never_lowers_the_score(parts: list[int], which: int, more: int) -> None:
    worse = [Fraction(part, 100) for part in parts]
    better = list(worse)
    better[which] = min(Fraction(1), better[which] + Fraction(more, 100))

    assert confidence(better, POLICY).score >= confidence(worse, POLICY).score


def item(id_: str, **more: object) -> dict[str, object]:
    return {"id": id_, "unit": "TNE", "quality": "1", "lot": id_, "warehouse": "w1"} | more


COPPER = item("copper", category="copper", quantity="100", cost="68000", market="70000", confidence="95")
RICE = item(
    "rice",
    category="rice",
    quantity="200",
    cost="4100",
    market="4000",
    quality="2",
    confidence="85",
    revaluation_days=5,
)
PHONES = item("phones", category="general", quantity="10", unit="EA", cost="1000", market="1000", confidence="65")


def decided(*items: dict[str, object], **more: object) -> dict[str, object]:
    return borrowing_base_decision(json.dumps({"grade": "A", "items": list(items)} | more).encode())


def test_borrowing_base_of_the_worked_example() -> None:
    got = decided(COPPER, RICE, PHONES)

    copper, rice, phones = got["items"]  # type: ignore[misc]
    assert (copper["gross"], copper["net"]) == ("6800000.00", "5780000.00")
    assert (rice["gross"], rice["net"], rice["haircut"]) == ("800000.00", "534143.10", "0.219089")
    assert (phones["net"], phones["eligible"], phones["reason"]) == ("0.00", False, "confidence")
    assert got["net"] == "6314143.10"
    assert got["caps_exceeded"] == [
        {
            "dimension": "category",
            "name": "copper",
            "cap": "3788485.86",
            "offered": "5780000.00",
            "excess": "1991514.14",
        }
    ]
    assert got["borrowing_base"] == "3025840.27"


@pytest.mark.parametrize(("days", "haircut"), [(1, "0.200000"), (5, "0.219089"), (20, "0.279285")])
def test_silence_grows_the_haircut(days: int, haircut: str) -> None:
    got = value_line(
        quantity=Fraction(1), price=Fraction(1), quality=Fraction(1), life=Fraction(1), haircut_base=Fraction(1, 5),
        revaluation_days=days, provenance=Fraction(0), policy=POLICY,
    )  # fmt: skip

    assert got.haircut_text == haircut


def test_a_haircut_of_one_makes_goods_ineligible() -> None:
    got = value_line(
        quantity=Fraction(1), price=Fraction(100), quality=Fraction(1), life=Fraction(1), haircut_base=Fraction(1, 5),
        revaluation_days=481, provenance=Fraction(0), policy=POLICY,
    )  # fmt: skip

    assert (got.ncv, got.reason) == (Money(0), "haircut")  # 0.2 x sqrt(500 / 20) = 1


@given(st.fractions(0, 10**9, max_denominator=10**6), st.fractions(0, 10**12, max_denominator=10**6))
def test_the_floor_of_a_difference_with_a_root_is_exact(value: Fraction, square: Fraction) -> None:
    number = _floor_minus_root(value, square)

    assert number <= value
    assert (value - number) ** 2 >= square
    following = value - (number + 1)
    assert following < 0 or following**2 < square


@pytest.mark.parametrize(
    ("grade", "factor"), [("1", Fraction(1)), ("2", Fraction(9, 10)), ("3", Fraction(3, 4)), ("reject", Fraction(0))]
)
def test_quality_factors(grade: str, factor: Fraction) -> None:
    assert quality_factor(grade, POLICY) == factor


@pytest.mark.parametrize(
    ("left", "factor"),
    [
        ("1", "1"),
        (".5", "1"),
        (".4999", ".8"),
        (".25", ".8"),
        (".2499", ".5"),
        (".1", ".5"),
        (".0999", "0"),
        ("0", "0"),
    ],
)
def test_shelf_life_factors(left: str, factor: str) -> None:
    assert life_factor(Fraction(left), POLICY) == Fraction(factor)
    assert life_factor(None, POLICY) == 1


@pytest.mark.parametrize(
    ("market", "reason"),
    [
        (None, "missing_price"),
        ({"price": "0", "median": "1"}, "zero_price"),
        ({"price": "70000", "as_of": "2026-11-20", "median": "70000"}, "stale_price"),
        ({"price": "70000", "as_of": "2026-11-25", "median": "70000"}, "future_price"),
        ({"price": "70000", "median": "53846"}, "price_out_of_band"),
        ({"price": "70000", "median": "70000", "unit": "KGM"}, "unit_mismatch"),
    ],
)
def test_a_price_that_may_not_be_used_makes_goods_ineligible(market: object, reason: str) -> None:
    got = decided(COPPER | {"market": market}, as_of="2026-11-24")

    line = got["items"][0]  # type: ignore[index]
    assert (line["eligible"], line["reason"], line["net"]) == (False, reason, "0.00")
    assert got["borrowing_base"] == "0.00"


def test_a_price_at_the_edge_of_its_band_is_used() -> None:
    got = decided(COPPER | {"market": {"price": "70000", "median": "100000"}})

    assert got["items"][0]["eligible"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"quantity": "1.1234567"}, "bad_number", "/items/0/quantity"),
        ({"unit": "kg"}, "unknown_unit", "/items/0/unit"),
        ({"category": "gold"}, "unknown_category", "category"),
        ({"colour": "red"}, "unknown_member", "/items/0/colour"),
        ({"prior_liens": 0.1}, "bad_amount", "/items/0/prior_liens"),
        ({"revaluation_days": 0}, "bad_number", "/items/0/revaluation_days"),
        ({"confidence": "101"}, "bad_number", "/items/0/confidence"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(change: dict[str, object], code: str, pointer: str) -> None:
    with pytest.raises(Rejected) as caught:
        decided(COPPER | change)

    assert (caught.value.code, caught.value.pointer) == (code, pointer)


def test_the_lower_of_book_and_sensor_counts() -> None:
    got = decided(COPPER | {"sensor_quantity": "50"})

    assert got["items"][0]["gross"] == "3400000.00"  # type: ignore[index]


def test_commands_print_what_the_specification_says() -> None:
    assert day_count_text("2003-11-01", "2004-05-01", "ACT/ACT") == "182 0.497724380567"
    assert day_count_text("2006-08-31", "2007-02-28", "30/360") == "178 0.494444444444"
    text = schedule_text(
        principal="100", rate="7", day_count_name="30/360", start="2024-01-01", periods="6", every="1M"
    )
    assert text.splitlines()[:2] == ["date,payment,interest,principal,balance", "2024-02-01,17.01,0.58,16.43,83.57"]
    assert text.splitlines()[-1].startswith("2024-07-01,17.00,0.10,16.90,0.00")
    assert json.loads(borrowing_base_text(json.dumps({"grade": "A", "items": [COPPER]}).encode()))["grade"] == "A"


@pytest.mark.parametrize(
    "change",
    [{"rate": "-1"}, {"rate": "1e2"}, {"periods": "x"}, {"periods": "0"}, {"principal": "0"}, {"start": "2024-02-30"}],
)
def test_a_bad_option_of_schedule_is_refused(change: dict[str, str]) -> None:
    options = {"principal": "100", "rate": "7", "start": "2024-01-01", "periods": "6", "every": "1M"} | change

    with pytest.raises(Rejected):
        schedule_text(day_count_name="30/360", **options)  # type: ignore[arg-type]


RATES = [Fraction(7, 10), Fraction(13, 20), Fraction(1, 2)]
GOODS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 2), st.integers(0, 500), st.sampled_from(RATES)),
    max_size=7,
)
CAPS = st.fixed_dictionaries({name: st.fractions(0, 1, max_denominator=20) for name in ONE})


def lines(rows: list[tuple[int, int, int, int, Fraction]]) -> list[Line]:
    return [
        Line(str(number), f"c{category}", Money(ncv), rate, f"c{category}l{lot}", f"w{warehouse}")
        for number, (category, lot, warehouse, ncv, rate) in enumerate(rows)
    ]


def keeps_caps(goods: list[Line], caps: dict[str, Fraction], used: dict[str, Money]) -> bool:
    whole = sum(line.ncv.minor for line in goods)
    for name, cap in caps.items():
        sums: dict[str, int] = {}
        for line in goods:
            sums[getattr(line, name)] = sums.get(getattr(line, name), 0) + used[line.id].minor
        if any(value > int(cap * whole) for value in sums.values()):
            return False
    return all(Money(0) <= used[line.id] <= line.ncv for line in goods)


@settings(max_examples=150, deadline=None)
@given(GOODS, CAPS, st.integers(0, 6), st.integers(0, 300), st.randoms(use_true_random=False))
def test_v18_base_keeps_caps_is_free_of_order_and_monotone(
    rows: list[tuple[int, int, int, int, Fraction]], caps: dict[str, Fraction], which: int, less: int, random: object
) -> None:
    goods = lines(rows)
    shuffled = list(goods)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    got = borrowing_base(goods, caps=caps)

    assert keeps_caps(goods, caps, dict(got.used))
    assert borrowing_base(shuffled, caps=caps).base == got.base
    if goods:
        assert borrowing_base(goods[:-1], caps=caps).base <= got.base
        spoiled = list(goods)
        old = spoiled[which % len(goods)]
        spoiled[which % len(goods)] = Line(
            old.id, old.category, Money(max(0, old.ncv.minor - less)), old.advance_rate, old.lot, old.warehouse
        )
        assert borrowing_base(spoiled, caps=caps).base <= got.base


@settings(max_examples=60, deadline=None)
@given(GOODS.filter(lambda rows: len(rows) <= 5), CAPS)
def test_base_equals_a_linear_programme_solved_by_someone_else(
    rows: list[tuple[int, int, int, int, Fraction]], caps: dict[str, Fraction]
) -> None:
    goods = lines([(a, b, c, ncv % 4, rate) for a, b, c, ncv, rate in rows])
    best = Fraction(0)

    def walk(number: int, used: dict[str, Money]) -> None:
        nonlocal best
        if number == len(goods):
            if keeps_caps(goods, caps, used):
                best = max(best, sum((line.advance_rate * used[line.id].minor for line in goods), Fraction(0)))
            return
        for minor in range(goods[number].ncv.minor + 1):
            walk(number + 1, used | {goods[number].id: Money(minor)})

    walk(0, {})

    assert borrowing_base(goods, caps=caps).base == Money(int(best))


def test_a_lot_lies_in_one_category() -> None:
    with pytest.raises(Rejected, match="lot_in_two_categories"):
        borrowing_base([Line("1", "a", Money(1), RATES[0], "l"), Line("2", "b", Money(1), RATES[0], "l")], caps=ONE)


def test_reserves_never_make_a_base_negative_and_margin_cash_adds() -> None:
    got = borrowing_base(
        [Line("1", "a", Money(100), Fraction(1, 2))], caps=ONE, reserves=Money(80), margin_cash=Money(7)
    )

    assert got.base == Money(7)


def test_ltv_gate_is_strict() -> None:
    gate = POLICY.number("monitoring", "ltv_gate")

    assert ltv_passes(parse_money("75"), parse_money("100"), gate)
    assert not ltv_passes(parse_money("75.01"), parse_money("100"), gate)
    assert not ltv_passes(parse_money("750001"), parse_money("1000000"), gate)
    assert ltv_passes(Money(0), Money(0), gate)
    assert ltv(Money(1), Money(0)) is None
    assert ratio_text(Fraction(750_001, 1_000_000)) == "75.01 %"
    assert not ltv_passes(Money(1), Money(0), gate)


def test_availability_is_never_negative() -> None:
    assert availability(limit=Money(10), base=Money(8), exposure=Money(3)) == Money(5)
    assert availability(limit=Money(10), base=Money(8), exposure=Money(9)) == Money(0)


def test_a_policy_has_no_floats_and_a_known_version() -> None:
    with pytest.raises(Rejected, match="bad_policy"):
        read_policy(b'version = "v9"\nrate = 0.5\n')
    with pytest.raises(Rejected, match="unknown_policy"):
        load_policy("v999")
    with pytest.raises(Rejected, match="unknown_policy"):
        load_policy("../v1")
    with pytest.raises(Rejected, match="bad_policy"):
        POLICY.number("caps")
