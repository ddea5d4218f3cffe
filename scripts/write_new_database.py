"""Write ``storage/new_database.sql`` anew, which a migration that changes the schema calls for.

``python scripts/write_new_database.py``
"""

from pathlib import Path

import sqlalchemy as sa

from tollhouse.storage import migrate

_HEAD = """\
-- What the migrations make of an empty SQLite database, so that a new one needs none of them.
-- Written by scripts/write_new_database.py; a test holds it against the migrations.

"""


def script() -> str:
    """Return the statements that make what the migrations make, in the order in which they make it."""
    engine = sa.create_engine("sqlite://", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        migrate.run_migrations(connection)
        made = connection.scalars(sa.text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"))
        statements = ["\n".join(line.rstrip() for line in each.strip().splitlines()) for each in made]
        revision = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    engine.dispose()
    return _HEAD + ";\n\n".join([*statements, f"INSERT INTO alembic_version VALUES ('{revision}')"]) + "\n"


if __name__ == "__main__":
    Path("src/tollhouse/storage/new_database.sql").write_text(script())
