"""Providers that do what a script says, behind a wire format of their own, and calls to them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from harness.books import Books
from tollhouse.audit.service import AuditLog
from tollhouse.completions.call import Answer, Call, Planner
from tollhouse.completions.decoding import decode_body
from tollhouse.completions.models import Candidate, Models
from tollhouse.completions.pipeline import Pipeline
from tollhouse.keys.model import Principal
from tollhouse.kit.ids import new_id
from tollhouse.pricing.book import ConfiguredPrice, PriceBook
from tollhouse.providers.base import (
    FinishReason,
    OutcomeUnknown,
    ProviderAnswer,
    ProviderRequest,
    Usage,
    WireRequest,
    WireResponse,
)
from tollhouse.telemetry.metrics import Metrics

API_KEY = "th_the key of the tests"
SHOP = Principal("key_1", "shop", "service", None)


class PlainAdapter:
    """Carries requests and answers as their own JSON."""

    def encode(self, request: ProviderRequest) -> WireRequest:
        return WireRequest("/complete", (), msgspec.json.encode(request))

    def decode(self, response: WireResponse) -> ProviderAnswer:
        return msgspec.json.decode(response.body, type=ProviderAnswer)


FIFTEEN_TOKENS = Usage(input_tokens=10, output_tokens=5)


def answer(content: str = "four", usage: Usage | None = FIFTEEN_TOKENS, finish: FinishReason = "stop") -> WireResponse:
    """Return an answer as it comes over the wire."""
    return WireResponse(200, {}, msgspec.json.encode(ProviderAnswer(content, finish, usage)))


Step = WireResponse | Exception | Callable[[], Awaitable[WireResponse]]


class Provider:
    """One provider's transport: takes a step of its script for each call it receives, the last one again and again.

    Attributes:
        received: the requests, decoded.
        log: the names of the providers that were called, shared by those of one desk.
    """

    def __init__(self, *steps: Step) -> None:
        self.name = ""
        self.steps = list(steps or [answer()])
        self.received: list[ProviderRequest] = []
        self.log: list[str] = []

    async def post(
        self,
        wire: WireRequest,
        *,
        deadline_s: float,
        first_byte_timeout_s: float | None,
        may_send: Callable[[], bool] | None,
    ) -> WireResponse:
        self.received.append(msgspec.json.decode(wire.body, type=ProviderRequest))
        self.log.append(self.name)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, Exception):
            raise step
        return step if isinstance(step, WireResponse) else await step()


class Held:
    """A step that waits until it is let go, or for good."""

    def __init__(self, result: Step | None = None) -> None:
        self.reached = asyncio.Event()
        self.let_go = asyncio.Event()
        self._result = result or answer()

    async def __call__(self) -> WireResponse:
        self.reached.set()
        await self.let_go.wait()
        if isinstance(self._result, Exception):
            raise self._result
        assert isinstance(self._result, WireResponse)
        return self._result


def candidate(name: str, provider: Provider, **changes: Any) -> Candidate:
    """Return a model of the provider of the same name."""
    fields: dict[str, Any] = {
        "model": name,
        "provider": f"{name} inc",
        "upstream_model": f"{name}-2026",
        "adapter": PlainAdapter(),
        "transport": provider,
        "timeout_s": 60.0,
        "max_output_tokens": None,
    }
    return Candidate(**fields | changes)


ONE_DOLLAR = ConfiguredPrice(input=Decimal(1), output=Decimal(1))
"""1,000 nano-USD for each token."""


class Desk:
    """Takes completion calls as the service does, from the caller's bytes on.

    Args:
        providers: by the name of the model they serve, the primary first and then its fallbacks.
        prices: by model; all others cost ``ONE_DOLLAR``, and None is no price.
        changes: fields of each model's candidate.
    """

    def __init__(
        self,
        books: Books,
        providers: Mapping[str, Provider],
        *,
        prices: Mapping[str, ConfiguredPrice | None] | None = None,
        changes: Mapping[str, Mapping[str, Any]] | None = None,
        call_timeout_s: float = 60.0,
    ) -> None:
        self.books = books
        self.called: list[str] = []
        for name, provider in providers.items():
            provider.name, provider.log = name, self.called
        candidates = {name: candidate(name, each, **(changes or {}).get(name, {})) for name, each in providers.items()}
        configured = dict.fromkeys(providers, ONE_DOLLAR) | dict(prices or {})
        book = PriceBook({name: price for name, price in configured.items() if price}, {}, books.clock)
        primary, *fallbacks = providers
        self.planner = Planner(
            Models(candidates, {primary: fallbacks}, book),
            books.clock,
            call_timeout_s=call_timeout_s,
            max_timeout_s=600,
            keep_answers_hours=24,
        )
        self.metrics = Metrics()
        self.pipeline = Pipeline(
            gate=books.gate,
            ledger=books.ledger,
            audit=AuditLog(books.database, books.clock),
            metrics=self.metrics,
            clock=books.clock,
        )

    def plan(
        self,
        fields: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        principal: Principal = SHOP,
        api_key: str = API_KEY,
    ) -> Call:
        """Plan a call of model ``small`` by tenant 42, with some fields of its body changed."""
        body = body_of(**fields or {})
        return self.planner.plan(decode_body(body), principal, api_key, key, new_id("req", self.books.clock.now_ms()))

    async def complete(self, fields: Mapping[str, Any] | None = None, **how: Any) -> Answer:
        return await self.pipeline.complete(self.plan(fields, **how))

    async def complete_all(self, calls: Sequence[Mapping[str, Any]], **how: Any) -> list[Answer | BaseException]:
        return await asyncio.gather(*(self.complete(fields, **how) for fields in calls), return_exceptions=True)


def body_of(**changes: Any) -> bytes:
    """Return a body; a field given as None is left out."""
    fields: dict[str, Any] = {
        "tenant_id": 42,
        "user_id": "u",
        "feature_slug": "f",
        "model": "small",
        "user_message": "two and two?",
        "max_tokens": 100,
    }
    return msgspec.json.encode({name: value for name, value in (fields | changes).items() if value is not None})


def lost() -> OutcomeUnknown:
    """Return the error of an attempt whose outcome nobody knows."""
    return OutcomeUnknown("the connection broke")
