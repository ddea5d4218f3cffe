"""Statements that are built and compiled once, for those that run again and again.

SQLAlchemy finds the compiled form of an equal statement by itself, but building the statement and finding it costs more
than running it does.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa


class _Compiled(msgspec.Struct, frozen=True):
    text: str
    fixed: dict[str, Any]
    names: frozenset[str]
    order: Sequence[str] | None


class Prepared:
    """A statement whose parameters are given by name each time; rows come as the driver has them.

    Args:
        columns: those that an INSERT gives values to.
    """

    def __init__(self, statement: sa.Executable, columns: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._columns = columns
        self._compiled: dict[str, _Compiled] = {}

    def on(self, connection: sa.Connection, **values: Any) -> sa.CursorResult[Any]:
        """Run it."""
        compiled = self._compiled.get(connection.dialect.name) or self._compile(connection.dialect)
        if values.keys() != compiled.names:
            raise TypeError(f"expected values of {sorted(compiled.names)}, and not of {sorted(values)}")
        given = {**compiled.fixed, **values}
        if compiled.order is None:
            return connection.exec_driver_sql(compiled.text, given)
        return connection.exec_driver_sql(compiled.text, tuple([given[name] for name in compiled.order]))

    def _compile(self, dialect: sa.Dialect) -> _Compiled:
        compiled = self._statement.compile(dialect=dialect, column_keys=self._columns)  # type: ignore[attr-defined]
        # What stands in the statement has its value already; what does not has to be given.
        asked = {bind.key for bind in compiled.bind_names if bind.required or bind.key in (self._columns or ())}
        fixed = {name: value for name, value in compiled.params.items() if name not in asked}
        found = _Compiled(str(compiled), fixed, frozenset(asked), compiled.positiontup)
        self._compiled[dialect.name] = found
        return found
