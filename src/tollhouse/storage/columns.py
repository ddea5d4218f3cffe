"""The kinds of columns that tables are made of, and what the tables of every engine belong to."""

import sqlalchemy as sa

metadata = sa.MetaData()


def money(name: str) -> sa.Column[int]:
    """Return a column of nano-USD."""
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def text(name: str, *, key: bool = False) -> sa.Column[str]:
    """Return a column of text that is always there."""
    return sa.Column(name, sa.Text, primary_key=key, nullable=False)


def optional_text(name: str) -> sa.Column[str | None]:
    """Return a column of text that may be NULL."""
    return sa.Column(name, sa.Text, nullable=True)


def row_hash(name: str) -> sa.Column[str]:
    """Return a column of a chain's hashes; a row that a migration found is without one for a moment."""
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def count(name: str) -> sa.Column[int]:
    """Return a column of a number that begins at 0."""
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
