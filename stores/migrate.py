"""Applies the numbered SQL files in `migrations/`, once each, under a lock.

Run by the schema's owner before any service starts: `python -m stores.migrate DSN`.
"""

import sys
from pathlib import Path

import psycopg
import yoyo

MIGRATIONS = Path(__file__).parent / "migrations"

LOCK = 0x66696E616C  # "final": any constant will do, as long as every version uses the same


def migrate(dsn: str) -> list[str]:
    """Bring the schema up to date and return the names of the files that were applied now.

    Two migrators at once are safe: the second waits for the first and finds nothing to do.
    The lock is PostgreSQL's advisory lock, not yoyo's lock table, because it goes away with
    its holder: a migrator killed half-way blocks nobody.
    """
    with psycopg.connect(dsn, autocommit=True) as guard:
        guard.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        backend = yoyo.get_backend(dsn.replace("postgresql://", "postgresql+psycopg://", 1))
        try:
            waiting = backend.to_apply(yoyo.read_migrations(str(MIGRATIONS)))
            backend.apply_migrations(waiting)
            return [migration.id for migration in waiting]
        finally:
            backend.connection.close()


if __name__ == "__main__":
    for name in migrate(sys.argv[1]):
        print(name)  # noqa: T201
