"""``tracebond user``: the staff of organisations, who sign in to the pages."""

import secrets
from pathlib import Path

import click
import sqlalchemy as sa

from api.auth.sessions import TOKEN_BYTES, create_one_time_login
from api.auth.users import all_users, create_person, create_user, user_by_login
from api.identity import Role
from api.tables import SESSION, USER
from core.errors import Rejected
from core.identifiers import gln_of, org_id
from tracebond.loops import now_ms
from tracebond.parts import open_books
from tracebond.settings import load_settings

_DATA = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder of the running server."
)
_LIFE = click.option(
    "--hours", type=click.IntRange(1, 720), default=24, show_default=True, help="How long the link works."
)


@click.group()
def user() -> None:
    """Staff: a person with a login, an organisation and roles.

    A new user signs in by a one-time link, printed once; `tracebond user link LOGIN` gives another.
    """


@user.command("add")
@_DATA
@_LIFE
@click.argument("login")
@click.option("--org", "gln", required=True, help="GLN of the organisation the person works for.")
@click.option("--name", required=True, help="The person's name.")
@click.option(
    "--role", "roles", multiple=True, required=True, type=click.Choice(sorted(str(role) for role in Role)),
    help="May be repeated.",
)  # fmt: skip
@click.option("--same-person", help="Login of the same person's other user: four eyes count persons, not users.")
def user_add(
    data: Path | None, hours: int, login: str, gln: str, name: str, roles: tuple[str, ...], same_person: str | None
) -> None:
    """Add the user LOGIN and print a link that signs in once."""
    settings = load_settings(data=data)
    with open_books(settings) as db, db.transaction() as tx:
        if same_person is None:
            person_id = create_person(tx, name=name, now_ms=now_ms())
        else:
            other = user_by_login(tx, same_person)
            if other is None:
                raise Rejected(f"There is no user {same_person}.", code="unknown_user", pointer="same-person")
            person_id = other.person_id
        chosen = [Role(role) for role in roles]
        user_id = create_user(tx, person_id=person_id, login=login, org=org_id(gln), roles=chosen, now_ms=now_ms())
        token = _link(tx, user_id, hours)
    click.echo(f"{settings.url}/login/once/{token}")


@user.command("link")
@_DATA
@_LIFE
@click.argument("login")
def user_link(data: Path | None, hours: int, login: str) -> None:
    """Print a link by which the user LOGIN signs in once."""
    settings = load_settings(data=data)
    with open_books(settings) as db, db.transaction() as tx:
        found = user_by_login(tx, login)
        if found is None or not found.is_active:
            raise Rejected(f"There is no active user {login}.", code="unknown_user", pointer="login")
        token = _link(tx, found.id, hours)
    click.echo(f"{settings.url}/login/once/{token}")


@user.command("list")
@_DATA
def user_list(data: Path | None) -> None:
    """Every user: login, organisation, roles, name."""
    with open_books(load_settings(data=data)) as db, db.reading() as tx:
        for found in all_users(tx):
            state = "" if found.is_active else "  (disabled)"
            click.echo(f"{found.login}  {gln_of(found.org)}  {','.join(found.roles)}  {found.name}{state}")


@user.command("disable")
@_DATA
@click.argument("login")
def user_disable(data: Path | None, login: str) -> None:
    """Shut the user LOGIN out, open sessions at once."""
    with open_books(load_settings(data=data)) as db, db.transaction() as tx:
        found = user_by_login(tx, login)
        if found is None:
            raise Rejected(f"There is no user {login}.", code="unknown_user", pointer="login")
        tx.execute(sa.update(USER).where(USER.c.id == found.id).values(is_active=False))
        ended = sa.update(SESSION).where(SESSION.c.user_id == found.id, SESSION.c.ended_ms.is_(None))
        tx.execute(ended.values(ended_ms=now_ms()))
    click.echo(f"{login} is shut out")


def _link(tx: sa.Connection, user_id: int, hours: int) -> str:
    token = secrets.token_bytes(TOKEN_BYTES)
    return create_one_time_login(tx, user_id, now_ms=now_ms(), token=token, life_s=3_600 * hours)
