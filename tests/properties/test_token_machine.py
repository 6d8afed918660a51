"""V15: whatever people and partners do to a token, what it spent never passes a limit: a machine and its model."""

import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from core.errors import TracebondError
from finance import tokens
from finance.journal import trial_balance
from ledger.database import open_database
from tests.finance.test_tokens import DAY_S, NOW, SHOP, Desk, opened
from tests.finance.world import BANK, BORROWER, CHECKER

IS_CAMPAIGN = bool(os.environ.get("TRACEBOND_CAMPAIGN"))
EXAMPLES, STEPS = (400, 50) if IS_CAMPAIGN else (3, 40)
places = st.integers(0, 30)
amounts = st.integers(1, 1_300)


@dataclass
class Model:
    """A token as a page of paper: its limits as they stand, and each payment with its day."""

    per_payment: int
    per_day: int
    total: int
    payments: int
    since: int
    until: int
    state: str = "ACTIVE"
    version: int = 1
    newest: date = date.min
    spends: dict[str, tuple[date, int]] = field(default_factory=dict)
    paid_at: dict[str, int] = field(default_factory=dict)
    last: int = 0
    paid_back: set[str] = field(default_factory=set)

    def spent(self, day: date | None = None) -> int:
        return sum(
            amount for name, (on, amount) in self.spends.items()
            if name not in self.paid_back and day in (None, on)
        )  # fmt: skip

    def count(self) -> int:
        return len(self.spends) - len(self.paid_back)


def yuan(fen: int) -> str:
    return f"{fen // 100}.{fen % 100:02d}"


class TokenMachine(RuleBasedStateMachine):
    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        file = self.folder / "tracebond.db"
        shutil.copy(self.template, file)
        self.database = open_database(f"sqlite:///{file}")
        self.desk: Desk = opened(self.database)
        self.models: dict[str, Model] = {}
        self.done: Counter[str] = Counter()

    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)

    def day(self) -> date:
        return (datetime.fromtimestamp(self.desk.clock, tz=UTC) + timedelta(hours=8)).date()

    def pick(self, place: int) -> tuple[str, Model] | None:
        found = sorted(self.models)
        return (found[place % len(found)], self.models[found[place % len(found)]]) if found else None

    def does(self, command: Any, *arguments: Any, **values: Any) -> dict[str, Any] | None:
        try:
            return dict(command(*arguments, **values))
        except TracebondError:
            return None

    @rule(once=amounts, daily=st.integers(0, 2_000), more=st.integers(0, 3_000), payments=st.integers(1, 9))
    def issue(self, once: int, daily: int, more: int, payments: int) -> None:
        if len(self.models) == 3:
            return
        until = self.desk.clock + 4 * DAY_S
        token = self.desk.issue(
            per_payment=yuan(once), per_day=yuan(once + daily), total=yuan(once + daily + more), payments=payments,
            valid_from=self.desk.clock, valid_until=until,
        )  # fmt: skip
        self.models[token] = Model(once, once + daily, once + daily + more, payments, self.desk.clock, until)

    @rule(place=places, amount=amounts, is_full=st.booleans())
    def pay(self, place: int, amount: int, is_full: bool) -> None:
        found = self.pick(place)
        if found is None:
            return
        token, model = found
        day = max(self.day(), model.newest)
        left = min(model.per_payment, model.per_day - model.spent(day), model.total - model.spent())
        amount = left if is_full and left > 0 else amount
        fits = (
            model.state == "ACTIVE" and model.since <= self.desk.clock < model.until and amount <= left
            and model.count() < model.payments
        )  # fmt: skip
        done = self.does(self.desk.pay, token, yuan(amount))
        assert (done is not None) == fits
        if done is not None:
            model.newest = day
            model.spends[done["spend"]] = (day, amount)
            model.paid_at[done["spend"]] = model.last = self.desk.clock

    @rule(place=places, number=places)
    def take_back(self, place: int, number: int) -> None:
        found = self.pick(place)
        if found is None or not found[1].spends:
            return
        _, model = found
        spend = sorted(model.spends)[number % len(model.spends)]
        done = self.does(self.desk.do, tokens.reverse_spend, SHOP, spend=spend)
        is_late = self.desk.clock - model.paid_at[spend] > 30 * DAY_S
        assert (done is not None) == (spend not in model.paid_back and not is_late)
        if done is not None:
            model.paid_back.add(spend)

    @rule(place=places, event=st.sampled_from(["suspend", "resume", "resume", "revoke"]))
    def move(self, place: int, event: str) -> None:
        found = self.pick(place)
        if found is None:
            return
        token, model = found
        after = {
            ("ACTIVE", "suspend"): "SUSPENDED", ("SUSPENDED", "resume"): "ACTIVE", ("ACTIVE", "revoke"): "REVOKED",
            ("SUSPENDED", "revoke"): "REVOKED",
        }.get((model.state, event))  # fmt: skip
        done = self.does(self.desk.do, getattr(tokens, f"{event}_token"), BORROWER, token=token)
        assert (None if done is None else done["state"]) == after
        if after is not None:
            model.state, model.version = after, model.version + 1

    @rule(place=places, once=amounts, daily=st.integers(0, 2_000), more=st.integers(0, 3_000), late=st.booleans())
    def change(self, place: int, once: int, daily: int, more: int, late: bool) -> None:
        found = self.pick(place)
        if found is None:
            return
        token, model = found
        total, until = once + daily + more, self.desk.clock + 3 * DAY_S
        done = self.does(
            self.desk.do, tokens.change_token, CHECKER, token=token, version=model.version - late, merchants=[],
            per_payment=yuan(once), per_day=yuan(once + daily), total=yuan(total), payments=9, window="",
            valid_from=NOW, valid_until=until,
        )  # fmt: skip
        fits = model.state in ("ACTIVE", "SUSPENDED") and not late and model.spent() <= total and model.count() <= 9
        assert (done is not None) == fits
        if done is not None:
            model.per_payment, model.per_day, model.total, model.payments = once, once + daily, total, 9
            model.since, model.until, model.version = NOW, until, model.version + 1

    @rule(seconds=st.sampled_from([3_600, 20_000, DAY_S, 31 * DAY_S, -3_600]))
    def wait(self, seconds: int) -> None:
        self.desk.clock = max(NOW, self.desk.clock + seconds)

    @rule()
    def close(self) -> None:
        with self.database.transaction() as tx:
            ended = tokens.close_tokens(tx, self.desk.ctx, now=self.desk.clock)
        over = {
            name for name, model in self.models.items()
            if model.state in ("ACTIVE", "SUSPENDED") and model.until <= self.desk.clock
        }  # fmt: skip
        used_up = {
            name for name, model in self.models.items()
            if name not in over and model.state == "ACTIVE" and model.last < self.desk.clock - 30 * DAY_S
            and (model.spent() >= model.total or model.count() >= model.payments)
        }  # fmt: skip
        assert set(ended) == over | used_up
        for name in ended:
            self.models[name].state = "EXPIRED" if name in over else "EXHAUSTED"
            self.models[name].version += 1

    @invariant()
    def v15_what_was_spent_keeps_every_limit(self) -> None:
        found = {row.id: row for row in self.desk.rows("SELECT * FROM fin_tokens")}
        assert set(found) == set(self.models)
        for name, model in self.models.items():
            row = found[name]
            assert (row.state, row.version, row.spent_total, row.count) == (
                model.state, model.version, model.spent(), model.count(),
            )  # fmt: skip
            assert row.spent_total <= row.total == model.total
            assert row.count <= row.count_max

    @invariant()
    def each_payment_is_booked_and_each_reversal_too(self) -> None:
        spent = sum(model.spent() for model in self.models.values())
        with self.database.reading() as tx:
            found = {account: money.minor for account, money in trial_balance(tx, BANK).items() if money.minor}
        assert found == ({"2011": spent, "3001": -spent} if spent else {})
        entries = self.desk.rows("SELECT COUNT(*) FROM fin_entries")[0][0]
        assert entries == sum(len(m.spends) + len(m.paid_back) for m in self.models.values())

    @invariant()
    def each_change_is_a_row_of_the_command_log(self) -> None:
        # Versions grow by one with each change of state or controls.
        changes = sum(model.version for model in self.models.values())
        moves = sum(len(m.spends) + len(m.paid_back) for m in self.models.values())
        logged = self.desk.rows("SELECT COUNT(*) FROM fin_command_log WHERE name <> 'link_account'")[0][0]
        assert logged == changes + moves


def test_v15_no_sequence_of_payments_and_changes_passes_a_limit(sqlite_template: Path) -> None:
    TokenMachine.template = sqlite_template
    run_state_machine_as_test(
        TokenMachine,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
