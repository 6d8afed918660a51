"""What the commands and pages show about a document: its problems, without storing anything."""

from core.epcis.checks import Problem
from core.epcis.validate import document_problems


def check(document: object) -> list[Problem]:
    """Everything that is wrong with an EPCIS document; empty when it may be captured.

    Args:
        document: the parsed JSON of a document, query document, single event or list of these.
    """
    return document_problems(document)


def render(problems: list[Problem]) -> str:
    """One line per problem: place, code and sentence; one line that says so when there is none."""
    if not problems:
        return "No problems found."
    return "\n".join(f"{problem.pointer or '/'}  {problem.code}  {problem.message}" for problem in problems)
