"""What the backend of a SaaS does for its own users' browsers: the half of the demo's page that holds a key.

A browser must hold no key of Tollhouse's. Its backend knows who is logged in; it asks for reports on their behalf, and
gets them tokens with which they follow their events, from Tollhouse itself.
"""

import asyncio
import contextlib
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tollhouse.apps.api import AsgiApp
from tollhouse.cli.asgi_client import ask
from tollhouse.cli.demo.business import POOR_TENANT, TENANT, TENANT_NAMES, USER, Sale, report_body
from tollhouse.cli.output import dollars

_SERVICE = "demo-page"
_MOST_ROWS = 12
_RECEIPT_COLUMNS = "id, status, input_tokens + cached_input_tokens, output_tokens, cost_nano_usd, row_hash"
_RECEIPT = f"SELECT {_RECEIPT_COLUMNS} FROM ai_usage_log WHERE request_id = ? ORDER BY id DESC LIMIT 1"  # noqa: S608
_NANO = Decimal(10) ** 9

_Tenant = Literal[42, 43]
assert {TENANT, POOR_TENANT} == set(_Tenant.__args__), "the page's tenants are the business's"  # type: ignore[attr-defined]


class Refusal(Exception):
    """Tollhouse's answer was an error, which the browser gets as it is."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body
        self.request_id = str(_decode(body)["request_id"])


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A report that the visitor wants."""

    tenant_id: _Tenant
    period: Annotated[str, Meta(min_length=1, max_length=60)]
    sales: Annotated[list[Sale], Meta(min_length=1, max_length=_MOST_ROWS)]


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom the visitor is taken for."""

    tenant_id: _Tenant


class Shop:
    """The backend.

    Args:
        tollhouse: the service, asked in this very process by the same addresses and keys as over HTTP.
        operator_token: a super-admin's key, with which the backend's own key is made and budgets are read.
        database: the service's SQLite file, of which the ledger's rows are shown.
    """

    def __init__(self, tollhouse: AsgiApp, operator_token: str, database: Path) -> None:
        self._tollhouse = tollhouse
        self._operator_token = operator_token
        self._database = database
        self._key = ""
        self._making_key = asyncio.Lock()

    async def budgets(self) -> list[dict[str, Any]]:
        """Return what each of the page's tenants has left; amounts as text, since JavaScript would round them."""
        spending = await self._ask("GET", "/ai/usage/tenants", self._operator_token)
        return [_budget(each) for each in spending if each["tenant_id"] in TENANT_NAMES]

    async def token(self, login: Login) -> Any:
        """Return a token with which the browser follows the events of its user."""
        return await self._ask("POST", "/events/token", await self._own_key(), msgspec.to_builtins(_whose(login)))

    async def generate(self, order: Order) -> Any:
        """Ask for a report; return its job's id."""
        body = report_body(order.tenant_id, order.period, order.sales)
        return await self._ask("POST", "/reports/generate", await self._own_key(), body)

    async def report(self, tenant_id: int, job_id: str) -> dict[str, Any]:
        """Return where a report is, and once it is over its text, its row in the ledger, and what is left."""
        whose = {"x-tenant-id": str(tenant_id), "x-user-id": str(USER)}
        job = await self._ask("GET", f"/ai/jobs/{job_id}", await self._own_key(), headers=whose)
        told = {name: job.get(name) for name in ("status", "attempts", "error", "message")}
        if result := job.get("result"):
            told |= {"text": result["content"], "model": result["model"]}
            told["receipt"] = await asyncio.to_thread(self._receipt, result["request_id"])
        usage = await self._ask("GET", f"/ai/usage?tenant_id={tenant_id}", await self._own_key())
        [budget] = [each for each in await self.budgets() if each["tenant_id"] == tenant_id]
        return told | {"budget": budget, "calls": usage["calls"]}

    async def _own_key(self) -> str:
        """Return the service key of the backend, which it makes at first."""
        async with self._making_key:
            if not self._key:
                wanted = {"service": _SERVICE, "tenants": list(TENANT_NAMES)}
                self._key = (await self._ask("POST", "/admin/keys", self._operator_token, wanted))["key"]
        return self._key

    async def _ask(
        self, method: str, target: str, key: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Any:
        """Ask Tollhouse; return the answer's JSON. Raises Refusal."""
        sent = {"authorization": f"Bearer {key}", "host": "localhost", "content-type": "application/json"}
        raw = b"" if body is None else msgspec.json.encode(body)
        status, answer = await ask(self._tollhouse, method, target, sent | (headers or {}), raw)
        if status >= 400:
            raise Refusal(status, answer)
        return _decode(answer)

    def _receipt(self, request_id: str) -> dict[str, Any] | None:
        """Return a call's row in the ledger; None where there is none."""
        with contextlib.closing(sqlite3.connect(f"{self._database.absolute().as_uri()}?mode=ro", uri=True)) as file:
            row = file.execute(_RECEIPT, (request_id,)).fetchone()
        if row is None:
            return None
        number, status, read, wrote, cost_nano_usd, row_hash = row
        return {
            "request_id": request_id,
            "row": number,
            "status": status,
            "input_tokens": read,
            "output_tokens": wrote,
            "cost": dollars(cost_nano_usd / _NANO),
            "row_hash": row_hash if isinstance(row_hash, str) else row_hash.hex(),
        }


_decode = msgspec.json.Decoder(float_hook=Decimal).decode


def _whose(login: Login) -> dict[str, int]:
    return {"tenant_id": login.tenant_id, "user_id": USER}


def _budget(spending: dict[str, Any]) -> dict[str, Any]:
    cap, spent, reserved = (Decimal(spending[name]) for name in ("budget_usd", "spent_usd", "reserved_usd"))
    left = cap - spent - reserved
    return {
        "tenant_id": spending["tenant_id"],
        "name": TENANT_NAMES[spending["tenant_id"]],
        "cap": dollars(cap),
        "spent": dollars(spent),
        "left": dollars(left),
        "part_left": float(left / cap) if cap else 0.0,
    }
