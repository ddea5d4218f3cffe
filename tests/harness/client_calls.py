"""Calls that a vendor's own client makes of a service, and what the ledger has to say of them."""

from typing import Any

import msgspec

from harness.service import Service, TenantId
from tollhouse.testing import Behaviour, FakeProvider, Receipt
from tollhouse.testing.behaviour import ToolCall

TOKEN_CLASSES = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
)
ANSWER = "The bridge opens at seven."
WEATHER_CALL = ToolCall("get_weather", {"city": "Paris", "days": 2})
WEATHER_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


class Client(msgspec.Struct):
    """One tenant with a key, and the provider behind the service, without memory of earlier tests."""

    service: Service
    fake: FakeProvider
    tenant: TenantId
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    def told(self, **behaviour: Any) -> Behaviour:
        """Have the provider answer so, with some tokens in each class that all vendors have."""
        behaviour = {
            "content": ANSWER,
            "input_tokens": 120,
            "cached_input_tokens": 30,
            "reasoning_tokens": 11,
            **behaviour,
        }
        told = Behaviour(**behaviour)
        self.fake.behave(told)
        return told

    def sent(self) -> dict[str, Any]:
        """Return the last request that reached the provider."""
        request: dict[str, Any] = self.fake.receipts()[-1].request
        return request

    def settled(self, calls: int = 1) -> Receipt:
        """Check that the ledger has one settled row for each call that the provider billed; return the last receipt."""
        billed = [receipt for receipt in self.fake.receipts() if receipt.billed]
        rows = self.service.rows(tenant_id=self.tenant)
        assert len(billed) == calls
        assert [row["status"] for row in rows] == ["settled"] * calls
        assert [row["usage_source"] for row in rows] == ["reported"] * calls
        assert [{name: row[name] for name in TOKEN_CLASSES} for row in rows] == [
            {name: getattr(receipt, name) for name in TOKEN_CLASSES} for receipt in billed
        ]
        assert [row["total_tokens"] for row in rows] == [receipt.total_tokens for receipt in billed]
        self.nothing_reserved()
        return billed[-1]

    def nothing_billed(self) -> None:
        """Check that neither the provider nor the ledger has anything to charge."""
        assert not any(receipt.billed for receipt in self.fake.receipts())
        assert self.service.rows(tenant_id=self.tenant) == []
        self.nothing_reserved()

    def nothing_reserved(self) -> None:
        assert self.service.budget(self.tenant)["reserved_nano_usd"] == 0
