"""The story's one broken cooling, as the alarm and the rules tell it."""

import json

from ledger.database import open_database
from ledger.findings_read import newest
from tests.journeys.conftest import Told, run


def test_the_truck_whose_cooling_broke_raised_one_alarm_and_told_it_in_the_log(told: Told) -> None:
    done = run("alarm", "list", "--all", "--json", "--data", str(told.data))
    (alarm,) = [json.loads(line) for line in done.stdout.splitlines()]

    # The scenario stops the cooling for three hours: from below 25 degrees to above 31.
    assert alarm["rule"]["kind"] == "excursion"
    assert 29 < float(alarm["peak"]) < 33
    assert float(alarm["degree_minutes"]) > 300
    assert all("/00/" in one for one in alarm["goods"])
    assert alarm["state"] == "cleared"


def test_rules_find_nothing_serious_in_an_honest_story(told: Told) -> None:
    database = open_database(f"sqlite:///{told.data / 'tracebond.db'}")
    with database.reading() as tx:
        found = newest(tx)
    database.close()

    # Drying takes the water out of milk: worth a notice, not an accusation.
    assert {one.code for one in found} == {"unexplained_loss"}
    assert {one.severity for one in found} == {"notice"}
