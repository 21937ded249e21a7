"""Makes a local stack's database ready for its services."""

import os

import psycopg
from psycopg import sql

from ops import accounts
from ops.processes import Addresses
from stores.migrate import migrate


def prepare(at: Addresses) -> None:
    """Make the database, migrate it, and give every service's role its password."""
    os.environ.setdefault("LOGNAME", accounts.OWNER)  # the migration library notes who ran it; a user id may have no name
    owner = at.postgres(accounts.OWNER)
    with psycopg.connect(owner.removesuffix("/finalbell") + "/postgres", autocommit=True) as connection:
        if connection.execute("SELECT FROM pg_database WHERE datname = 'finalbell'").fetchone() is None:
            connection.execute("CREATE DATABASE finalbell")
    migrate(owner)
    with psycopg.connect(owner, autocommit=True) as connection:
        for account in accounts.ACCOUNTS:
            role = sql.Identifier(accounts.postgres_role(account.name))
            connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(at.passwords[account.name])))
