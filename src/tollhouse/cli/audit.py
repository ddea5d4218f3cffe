"""``tollhouse audit``: who changed what, and when."""

from typing import Any

import click

from tollhouse.cli.options import Group, Options

_PAGE = 500
_MONEY = "_nano_usd"
_NOTHING = (None, "")
# The entry's own columns say these already.
_SAID_BEFORE = frozenset({"tenant_id", "key_id", "created_at", "updated_at"})


@click.group(cls=Group, invoke_without_command=True)
@click.option("--tenant", "tenant_id", metavar="ID", help="Only what concerns this tenant.")
@click.option("--action", help="Only this action, such as key.revoked.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many entries at most.")
@click.pass_context
def audit(context: click.Context, tenant_id: str | None, action: str | None, limit: int) -> None:
    """Show the audit log, the newest entry first."""
    if context.invoked_subcommand is None:
        _show(context.obj, tenant_id, action, limit)


@audit.command()
@click.option("--after-id", type=click.IntRange(min=0), default=0, metavar="ID", help="Only entries after this one.")
@click.pass_obj
def export(options: Options, after_id: int) -> None:
    """Write the audit log as JSON lines, the oldest entry first, with the hashes that chain them.

    Works beside a running server, and holds no more than a piece of it in memory.
    """
    import sqlalchemy as sa

    from tollhouse.audit.export import lines
    from tollhouse.audit.store import chain
    from tollhouse.cli.books import read_books

    def write(connection: sa.Connection) -> None:
        for row in chain(connection, after_id):
            click.echo(lines([row]), nl=False)

    read_books(options.config().database, write)


def _show(options: Options, tenant_id: str | None, action: str | None, limit: int) -> None:
    from tollhouse.cli.output import print_json, print_table
    from tollhouse.cli.session import open_session

    query = {"tenant_id": tenant_id, "action": action, "limit": min(limit, _PAGE)}
    cursor = ("before_id", "next_before_id")
    with open_session(options) as session:
        entries = session.pages("/admin/audit", "entries", query, cursor=cursor, most=limit)
    if options.as_json:
        print_json({"entries": entries})
        return
    rows = [
        (entry["created_at"], entry["actor"], entry["action"], entry["tenant_id"], entry["target"], _change(entry))
        for entry in entries
    ]
    headings = ("TIME", "ACTOR", "ACTION", "TENANT", "TARGET", "CHANGE")
    print_table(headings, rows, when_empty="No such entries.")


def _change(entry: dict[str, Any]) -> str:
    """Return what differs between the states before and after."""
    before, after = entry["before"], entry["after"]
    if not isinstance(after, dict):
        return "removed" if after is None else str(after)
    known = before if isinstance(before, dict) else {}
    changed = [_difference(name, known.get(name), value) for name, value in after.items() if name not in _SAID_BEFORE]
    return ", ".join(filter(None, changed))


def _difference(name: str, before: object, after: object) -> str:
    """Return a field's change in words; "" for one that did not change."""
    if before in _NOTHING and after in _NOTHING:
        return ""
    old, new = _text(name, before), _text(name, after)
    if old == new:
        return ""
    name = name.removesuffix(_MONEY)
    return f"{name}: {new}" if before in _NOTHING else f"{name}: {old} → {new}"


def _text(name: str, value: object) -> str:
    import msgspec

    from tollhouse.cli.output import dollars
    from tollhouse.kit.money import usd

    if value in _NOTHING:
        return "none"
    if name.endswith(_MONEY) and isinstance(value, int):
        return dollars(usd(value))
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
