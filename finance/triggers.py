"""Triggers by which the database itself keeps the books: rows that only grow in number, entries that balance."""

from typing import Final

APPEND_ONLY: Final = ("fin_command_log", "fin_command_keys", "fin_approvals", "fin_entries", "fin_postings",
                      "fin_policies", "fin_quotes", "fin_payments", "fin_refusals",
                      "fin_accruals", "fin_provisions", "fin_reversals", "fin_screening_names",
                      "fin_screening_lists", "fin_terminations", "fin_limit_reviews")  # fmt: skip


def append_only_ddl(dialect: str) -> list[str]:
    """The triggers by which the database itself refuses changes, and entries whose postings do not balance.

    The last posting of an entry (``line`` = ``lines``) is taken only when both sides then sum to the header.
    """
    wrong = (
        "(SELECT COUNT(*) <> NEW.lines OR SUM(p.debit_minor) <> MAX(e.debit_minor) "
        "OR SUM(p.credit_minor) <> MAX(e.credit_minor) FROM fin_postings p JOIN fin_entries e ON e.number = p.entry "
        "WHERE p.entry = NEW.entry)"
    )
    if dialect == "sqlite":
        refuse = "BEGIN SELECT RAISE(ABORT, 'append-only'); END"
        return [
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} {refuse}"
            for table in APPEND_ONLY
            for verb in ("UPDATE", "DELETE")
        ] + [
            "CREATE TRIGGER fin_postings_balance AFTER INSERT ON fin_postings WHEN NEW.line = NEW.lines "
            f"BEGIN SELECT RAISE(ABORT, 'unbalanced entry') WHERE {wrong}; END",
            "CREATE TRIGGER fin_postings_closed BEFORE INSERT ON fin_postings WHEN NEW.line > NEW.lines OR EXISTS "
            "(SELECT 1 FROM fin_postings p WHERE p.entry = NEW.entry AND p.line = p.lines) "
            "BEGIN SELECT RAISE(ABORT, 'entry is complete'); END",
        ]
    lines_wrong = wrong.replace("NEW.lines", "(SELECT MAX(lines) FROM fin_postings WHERE entry = NEW.entry)")
    raises = "USING ERRCODE = 'integrity_constraint_violation'"
    return [
        "CREATE FUNCTION fin_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION 'append-only' {raises}; END $$",
        *(
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION fin_refuse_change()"
            for table in APPEND_ONLY
        ),
        *(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION fin_refuse_change()"
            for table in APPEND_ONLY
        ),
        "CREATE FUNCTION fin_check_entry() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF {lines_wrong} THEN RAISE EXCEPTION 'unbalanced entry' {raises}; END IF; RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER fin_postings_balance AFTER INSERT ON fin_postings DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION fin_check_entry()",
    ]
