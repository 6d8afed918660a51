"""Tables of sensors and alarms: readings and last states follow from the log, rules and acknowledgements do not."""

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table, Text, text

from ledger.tables import metadata

_BIG = BigInteger().with_variant(Integer(), "sqlite")
_OPEN = text("state <> 'cleared'")

# What sensors measured, by device time; older than the time kept they are in the log alone. A position is a reading
# of measurement "position" with latitude and longitude in degrees, value and `second`. `name64` is the hash of the
# event's organisation and eventID, by which an error declaration finds it.
sensor_readings: Final = Table(
    "sensor_readings",
    metadata,
    Column("device", Text, primary_key=True),
    Column("measurement", Text, primary_key=True),
    Column("at_ms", _BIG, primary_key=True, autoincrement=False),
    Column("ev", _BIG, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("org", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("second", Text, nullable=False),
    Column("uom", Text, nullable=False),
    Column("name64", _BIG, nullable=False),
    Index("sensor_readings_name", "name64"),
    Index("sensor_readings_place", "place", "measurement", "at_ms"),
    Index("sensor_readings_time", "at_ms"),
    Index("sensor_readings_ev", "ev"),
)

# The newest reading by device time, then log order; `scope` is device or place, `source` the device that took it.
sensor_states: Final = Table(
    "sensor_states",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("measurement", Text, primary_key=True),
    Column("org", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("at_ms", _BIG, nullable=False),
    Column("ev", _BIG, nullable=False),
    Column("value", Text, nullable=False),
    Column("second", Text, nullable=False),
    Column("uom", Text, nullable=False),
    Column("place", Text, nullable=False),
    Index("sensor_states_org", "org"),
)

alarm_rules: Final = Table(
    "alarm_rules",
    metadata,
    Column("id", Text, primary_key=True),
    Column("org", Text, nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("definition", Text, nullable=False),
    Column("hook", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("is_active", Integer, nullable=False),
    Column("created_ms", _BIG, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("ended_ms", _BIG),
    Column("ended_by", Text, nullable=False),
)

# One row per episode; at most one that is not cleared per rule and device. `history` is every change as
# [unix ms, what, who, note]. `raise_event`, `clear_event`: ids of the EPCIS events that tell it in the
# log, "" until then.
alarms: Final = Table(
    "alarms",
    metadata,
    Column("id", Text, primary_key=True),
    Column("rule", Text, nullable=False, index=True),
    Column("device", Text, nullable=False),
    Column("org", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("start_ms", _BIG, nullable=False),
    Column("raised_ms", _BIG, nullable=False),
    Column("end_ms", _BIG),
    Column("cleared_by", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("goods", Text, nullable=False),
    Column("history", Text, nullable=False),
    Column("changed_ms", _BIG, nullable=False),
    Column("raise_event", Text, nullable=False),
    Column("clear_event", Text, nullable=False),
    Index("alarms_open", "rule", "device", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    Index("alarms_org", "org", "changed_ms"),
)

alarm_deliveries: Final = Table(
    "alarm_deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("alarm", Text, nullable=False, index=True),
    Column("what", Text, nullable=False),
    Column("hook", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_ms", _BIG, nullable=False),
    Column("next_ms", _BIG, nullable=False),
    Column("deadline_ms", _BIG, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("answer", Text, nullable=False),
    Index("alarm_deliveries_due", "state", "next_ms"),
)

TABLES: Final = (sensor_readings, sensor_states, alarm_rules, alarms, alarm_deliveries)
