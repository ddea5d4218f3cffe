"""``tollhouse audit``: who changed what, and when."""

from typing import Any

import click

from tollhouse.cli.options import Command, Options

_PAGE = 500


@click.command(cls=Command)
@click.option("--tenant", "tenant_id", metavar="ID", help="Only what concerns this tenant.")
@click.option("--action", help="Only this action, such as key.revoked.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many entries at most.")
@click.pass_obj
def audit(options: Options, tenant_id: str | None, action: str | None, limit: int) -> None:
    """Show the audit log, the newest entry first."""
    from tollhouse.cli.output import print_json, print_table
    from tollhouse.cli.session import open_session

    query = {"tenant_id": tenant_id, "action": action, "limit": min(limit, _PAGE)}
    cursor = ("before_id", "next_before_id")
    with open_session(options) as session:
        entries = session.pages("/admin/audit", "entries", query, cursor=cursor, most=limit)
    if options.as_json:
        print_json(entries)
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
    changed = [
        f"{name}: {_text(known[name])} → {_text(value)}" if name in known else f"{name}: {_text(value)}"
        for name, value in after.items()
        if name not in known or known[name] != value
    ]
    return ", ".join(changed)


def _text(value: object) -> str:
    import msgspec

    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
