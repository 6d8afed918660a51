"""Persons and their users. A person may own several users; four eyes means two persons."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from api.identity import Role
from api.tables import PERSON, USER
from core.errors import Conflict, Rejected

PASSWORD_CHARACTERS_MIN: Final = 12
PASSWORD_CHARACTERS_MAX: Final = 200
# argon2id with the library's defaults: 64 MiB, 3 passes (RFC 9106, second recommended option).
_HASHER: Final = PasswordHasher()
# Checked in place of an unknown user's hash, so that the time of an answer does not tell whether a login exists.
_NOBODY: Final = _HASHER.hash("no user has this password")


@dataclass(frozen=True)
class User:
    """One account with the person who owns it."""

    id: int
    person_id: int
    login: str
    name: str
    org: str
    roles: tuple[str, ...]
    is_active: bool


def create_person(tx: Connection, *, name: str, now_ms: int) -> int:
    """Add a person and give the person's number."""
    result = tx.execute(insert(PERSON).values(name=name, created_ms=now_ms))
    return _number(result.inserted_primary_key)


def create_user(
    tx: Connection,
    *,
    person_id: int,
    login: str,
    org: str,
    roles: Iterable[Role],
    now_ms: int,
    password: str | None = None,
) -> int:
    """Add a user of a person and give the user's number.

    Args:
        org: the organisation's id, ``https://id.gs1.org/417/<GLN>``.
        password: at least 12 characters; without one the user signs in by one-time logins alone.

    Raises:
        Conflict: ``login_taken``.
        Rejected: ``weak_password``, ``no_role``.
    """
    names = sorted(str(role) for role in roles)
    if not names:
        raise Rejected("A user needs at least one role.", code="no_role", pointer="/roles")
    try:
        result = tx.execute(
            insert(USER).values(
                person_id=person_id,
                login=login,
                org=org,
                roles=" ".join(names),
                password_hash=None if password is None else hash_password(password),
                is_active=True,
                created_ms=now_ms,
            )
        )
    except IntegrityError as error:
        raise Conflict(f"The login {login!r} is taken, or its person is unknown.", code="login_taken") from error
    return _number(result.inserted_primary_key)


def set_password(tx: Connection, user_id: int, password: str) -> None:
    """Replace a user's password."""
    tx.execute(update(USER).where(USER.c.id == user_id).values(password_hash=hash_password(password)))


def user_by_login(tx: Connection, login: str) -> User | None:
    """The user of a login name."""
    return _user(tx, USER.c.login == login)


def user_by_id(tx: Connection, user_id: int) -> User | None:
    """The user of a number."""
    return _user(tx, USER.c.id == user_id)


def all_users(tx: Connection) -> list[User]:
    """Every user, by login name."""
    rows = tx.execute(select(USER, PERSON.c.name).join(PERSON).order_by(USER.c.login))
    return [_of_row(row) for row in rows]


def person_name(tx: Connection, person_id: int) -> str:
    """The name of a person, empty where there is none."""
    return str(tx.scalar(select(PERSON.c.name).where(PERSON.c.id == person_id)) or "")


def password_hash_of(tx: Connection, login: str) -> str:
    """The stored hash of a login, or one that no password fits."""
    found = tx.scalar(select(USER.c.password_hash).where(USER.c.login == login, USER.c.is_active))
    return str(found or _NOBODY)


def hash_password(password: str) -> str:
    """The argon2id hash of a new password.

    Raises:
        Rejected: ``weak_password``.
    """
    if not PASSWORD_CHARACTERS_MIN <= len(password) <= PASSWORD_CHARACTERS_MAX:
        raise Rejected(
            f"A password has {PASSWORD_CHARACTERS_MIN} to {PASSWORD_CHARACTERS_MAX} characters.", code="weak_password"
        )
    return _HASHER.hash(password)


def fits(password_hash: str, password: str) -> bool:
    """Whether the password belongs to the hash; takes a tenth of a second on purpose."""
    try:
        return len(password) <= PASSWORD_CHARACTERS_MAX and _HASHER.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def _number(key: Any) -> int:
    return int(key[0])


def _user(tx: Connection, condition: object) -> User | None:
    row = tx.execute(select(USER, PERSON.c.name).join(PERSON).where(condition)).first()  # type: ignore[arg-type]
    return None if row is None else _of_row(row)


def _of_row(row: object) -> User:
    columns = row._mapping  # type: ignore[attr-defined]
    return User(
        id=columns["id"],
        person_id=columns["person_id"],
        login=columns["login"],
        name=columns["name"],
        org=columns["org"],
        roles=tuple(columns["roles"].split()),
        is_active=columns["is_active"],
    )
