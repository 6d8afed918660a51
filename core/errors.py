"""The four families of errors; the family tells the caller what to do."""

from typing import ClassVar


class TracebondError(Exception):
    """An error with a stable code for programs and a sentence for people.

    Args:
        message: one sentence that says what is wrong and, where it helps, what to do.
        code: stable snake_case word; the class's own code when left out.
        pointer: JSON pointer or field name of the fault, "" when it has no place.
    """

    code: str = "error"
    family: ClassVar[str] = "error"

    def __init__(self, message: str = "", *, code: str | None = None, pointer: str = "") -> None:
        self.message = message or (type(self).__doc__ or "").strip().split("\n")[0]
        if code is not None:
            self.code = code
        self.pointer = pointer
        super().__init__(self.message)

    def __str__(self) -> str:
        place = f" at {self.pointer}" if self.pointer else ""
        return f"{self.message} [{self.code}{place}]"


class Rejected(TracebondError):
    """The input is wrong; sending it again will not help."""

    code = "rejected"
    family = "rejected"


class Conflict(TracebondError):
    """The present state forbids it; read again, then decide."""

    code = "conflict"
    family = "conflict"


class Unavailable(TracebondError):
    """A broker, chain or database is away; retry with the same key."""

    code = "unavailable"
    family = "unavailable"


class Broken(TracebondError):
    """An invariant of our own is false; stop and alert."""

    code = "broken"
    family = "broken"
