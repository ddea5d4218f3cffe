"""Providers that do what a script says, behind a wire format of their own, and calls to them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from harness.books import Books
from tollhouse.audit.journal import AuditJournal
from tollhouse.audit.service import AuditLog
from tollhouse.completions.call import Answer, Call, Limits, Planner
from tollhouse.completions.decoding import decode_body
from tollhouse.completions.models import Candidate, Models
from tollhouse.completions.pipeline import Pipeline
from tollhouse.completions.relay import StreamBounds
from tollhouse.config import Guardrails
from tollhouse.guardrails.inspection import FeatureGuards
from tollhouse.guardrails.log import FindingsLog
from tollhouse.keys.model import Principal
from tollhouse.kit.ids import new_id
from tollhouse.pricing.book import ConfiguredPrice, PriceBook
from tollhouse.providers.base import (
    ApiName,
    Dialect,
    OutcomeUnknown,
    Overloaded,
    ProviderError,
    WireRequest,
    WireResponse,
)
from tollhouse.providers.conversation import (
    Finished,
    FinishReason,
    PartBegun,
    PartEnded,
    PartGrew,
    ProviderAnswer,
    ProviderRequest,
    StreamEvent,
    Text,
)
from tollhouse.providers.incoming import Incoming
from tollhouse.providers.refusals import failure
from tollhouse.providers.sse import ServerSentEvent, encode_event
from tollhouse.providers.usage import Usage
from tollhouse.telemetry.metrics import Metrics
from tollhouse.tenants.tiers import TenantTiers

API_KEY = "th_the key of the tests"
SHOP = Principal("key_1", "shop", "service", None)


class PlainAdapter:
    """Carries requests and answers as their own JSON."""

    def encode(self, request: ProviderRequest) -> WireRequest:
        return WireRequest("/complete", (), msgspec.json.encode(request))

    def decode(self, response: WireResponse) -> ProviderAnswer:
        if response.status != 200:
            raise failure(response, secret="")
        return msgspec.json.decode(response.body, type=ProviderAnswer)

    def dialect(self, api: ApiName) -> Dialect | None:
        return self if api == "chat" else None

    def relay(self, body: Mapping[str, Any], *, model: str, stream: bool, headers: Mapping[str, str]) -> WireRequest:
        return WireRequest("/relayed", (), msgspec.json.encode({**body, "model": model}))

    def stream_reader(self) -> "PlainReader":
        return PlainReader()


class PlainReader:
    """Reads events that are neutral ones in JSON: a text, ``usage``, ``finish``, or ``thinks`` unseen."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.is_behind = False
        self.thinks_unseen = False
        self.provider_request_id: str | None = None
        self._has_begun = False

    def read(self, event: ServerSentEvent) -> Sequence[StreamEvent]:
        said = msgspec.json.decode(event.data)
        if "error" in said:
            raise Overloaded(said["error"], status=529)
        self.thinks_unseen = self.thinks_unseen or "thinks" in said
        if "text" in said or "usage" in said:
            self.is_behind = "usage" not in said
        if "usage" in said:
            self.usage = msgspec.convert(said["usage"], Usage)
        if "finish" in said:
            return [PartEnded(0), Finished(said["finish"])]
        if "text" not in said:
            return []
        begun = [] if self._has_begun else [PartBegun(0, Text(""))]
        self._has_begun = True
        return [*begun, PartGrew(0, said["text"])]


FIFTEEN_TOKENS = Usage(input_tokens=10, output_tokens=5)


def answer(content: str = "four", usage: Usage | None = FIFTEEN_TOKENS, finish: FinishReason = "stop") -> WireResponse:
    """Return an answer as it comes over the wire."""
    return WireResponse(200, {}, msgspec.json.encode(ProviderAnswer(content, finish, usage)))


Step = WireResponse | Exception | Callable[[], Awaitable[WireResponse]]


def event(**said: Any) -> bytes:
    """Return an event that ``PlainReader`` reads: of a ``text``, the ``usage``, the ``finish`` or an ``error``."""
    return encode_event(msgspec.json.encode(said))


class Streaming:
    """A step that answers with a stream of pieces; an exception ends it, and a coroutine function is waited for."""

    def __init__(self, *pieces: bytes | Exception | Callable[[], Awaitable[object]]) -> None:
        self.pieces = pieces
        self.is_closed = False
        self.sent = 0

    async def feed(self, incoming: Incoming) -> None:
        self.is_closed = False
        incoming.opened(self._close)
        for piece in self.pieces:
            if self.is_closed:
                return
            if isinstance(piece, bytes):
                incoming.add(piece)
                self.sent += 1
            elif isinstance(piece, ProviderError):
                incoming.end(piece)
                return
            else:
                assert not isinstance(piece, Exception)
                await piece()
            await asyncio.sleep(0)
        incoming.end()

    def _close(self) -> None:
        self.is_closed = True


class Provider:
    """One provider's transport: takes a step of its script for each call it receives, the last one again and again.

    Attributes:
        received: the requests, decoded.
        log: the names of the providers that were called, shared by those of one desk.
    """

    def __init__(self, *steps: Step | Streaming) -> None:
        self.name = ""
        self.steps: list[Step | Streaming] = list(steps or [answer()])
        self._feeding: set[asyncio.Task[None]] = set()
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
        step = self._next()
        assert not isinstance(step, Streaming), "it is asked for a whole answer"
        if isinstance(step, Exception):
            raise step
        return step if isinstance(step, WireResponse) else await step()

    async def open(
        self,
        wire: WireRequest,
        *,
        begin_by_s: float,
        deadline_s: float,
        first_byte_timeout_s: float | None,
        pause_s: float,
        may_send: Callable[[], bool] | None,
    ) -> WireResponse | Incoming:
        if wire.path != "/relayed":
            self.received.append(msgspec.json.decode(wire.body, type=ProviderRequest))
        step = self._next()
        if isinstance(step, Exception):
            raise step
        if not isinstance(step, Streaming):
            return step if isinstance(step, WireResponse) else await step()
        incoming = Incoming(lambda _: None)
        task = asyncio.create_task(step.feed(incoming))
        self._feeding.add(task)
        task.add_done_callback(self._feeding.discard)
        return incoming

    def _next(self) -> Step | Streaming:
        self.log.append(self.name)
        return self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]


class Collected:
    """A caller who takes a streamed answer, and may leave."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.is_gone = False
        self.has_ended = False
        self.standing: tuple[Any, ...] = ()

    @property
    def has_begun(self) -> bool:
        return bool(self.pieces)

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    def write(self, data: bytes) -> None:
        assert not self.has_ended
        if not self.is_gone:
            self.pieces.append(data)

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def end(self, data: bytes) -> None:
        self.write(data)
        self.has_ended = True


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
        bounds: StreamBounds = StreamBounds(),  # noqa: B008 - frozen
        tier_fallbacks: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        guardrails: Guardrails = Guardrails(),  # noqa: B008 - frozen
    ) -> None:
        self.books = books
        self.providers = providers
        self.called: list[str] = []
        for name, provider in providers.items():
            provider.name, provider.log = name, self.called
        candidates = {name: candidate(name, each, **(changes or {}).get(name, {})) for name, each in providers.items()}
        configured = dict.fromkeys(providers, ONE_DOLLAR) | dict(prices or {})
        book = PriceBook({name: price for name, price in configured.items() if price}, {}, books.clock)
        primary, *fallbacks = providers
        self.planner = Planner(
            Models(candidates, {primary: fallbacks}, book, tier_fallbacks=tier_fallbacks or {}),
            books.clock,
            Limits(call_timeout_s=call_timeout_s, max_timeout_s=600, keep_answers_hours=24),
            FeatureGuards(guardrails, {}),
        )
        self.metrics = Metrics()
        self.findings = FindingsLog(books.database, books.clock, self.metrics)
        self.journal = AuditJournal(AuditLog(books.database, books.clock), books.clock)
        self.pipeline = Pipeline(
            gate=books.gate,
            ledger=books.ledger,
            journal=self.journal,
            findings=self.findings,
            tiers=TenantTiers(books.database, books.clock),
            metrics=self.metrics,
            clock=books.clock,
            bounds=bounds,
        )

    def plan(
        self,
        fields: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        principal: Principal = SHOP,
        api_key: str = API_KEY,
        timeout: str | None = None,
    ) -> Call:
        """Plan a call of model ``small`` by tenant 42, with some fields of its body changed."""
        body = body_of(**fields or {})
        request_id = new_id("req", self.books.clock.now_ms())
        return self.planner.plan(decode_body(body), principal, api_key, key, request_id, timeout)

    async def complete(self, fields: Mapping[str, Any] | None = None, **how: Any) -> Answer:
        answer = await self.pipeline.complete(self.plan(fields, **how))
        assert answer is not None, "it is not streamed"
        return answer

    async def stream(self, sink: "Collected", fields: Mapping[str, Any] | None = None, **how: Any) -> Answer | None:
        """Complete a call whose answer is wanted in events."""
        return await self.pipeline.complete(self.plan({"stream": True, **(fields or {})}, **how), sink)

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
