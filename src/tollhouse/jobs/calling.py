"""One try of a job: the call to the AI Service over HTTP, as any caller makes it, and what follows from its end."""

from typing import Any, Literal

import msgspec

from tollhouse.client import errors
from tollhouse.client.asynchronous import AsyncClient
from tollhouse.client.model import Completion
from tollhouse.client.settings import RetryPolicy
from tollhouse.jobs.model import Failure
from tollhouse.keys.charging import CHARGED_KEY_HEADER

Verdict = Literal["final", "again", "wait", "away", "lost", "crashed"]
"""What a try without an answer means.

``final``: no other try would end otherwise. ``again``: it has used up a try. ``wait``: the call was not made, or is
being answered, and the job goes on later. ``away``: nor would any other job's call be made. ``lost``: an earlier try's
call was made, and its answer will not be had. ``crashed``: what made the call ended without a word.
"""

_encode = msgspec.json.Encoder(decimal_format="number").encode
_NOT_SENT = ("stream",)
# Its message has words of the provider's in it; all others are Tollhouse's own.
_REJECTED = "ai_provider_rejected"


class TryFailed(Exception):
    """A try brought no answer.

    Attributes:
        retry_after_s: after how long the service asked to be tried again, if it did.
        is_unknown: whether the call was made, and what came of it is not going to be told under its key.
    """

    def __init__(
        self, verdict: Verdict, failure: Failure, retry_after_s: float | None = None, *, is_unknown: bool = False
    ) -> None:
        super().__init__(failure.message)
        self.verdict = verdict
        self.failure = failure
        self.retry_after_s = retry_after_s
        self.is_unknown = is_unknown


class JobCall(msgspec.Struct, frozen=True):
    """The call of a job.

    Attributes:
        request: the body of ``POST /ai/complete``.
        account: the value of ``X-Charged-Key``: which key's call it counts as.
    """

    request: bytes
    idempotency_key: str
    account: str


class CallerSettings(msgspec.Struct, frozen=True):
    """How the AI Service is called.

    Attributes:
        ca_file: certificates of authorities to trust instead of the system's.
    """

    url: str
    api_key: str
    ca_file: str | None = None


class ServiceCaller:
    """Calls the AI Service with a service key.

    Args:
        max_calls: how many calls are under way at once.

    Raises:
        ValueError, OSError: a setting cannot be meant, or names a file that cannot be read.
    """

    def __init__(self, settings: CallerSettings, *, max_calls: int) -> None:
        # Tries are the queue's to count: the client makes one, and waits for an answer that is on its way.
        self._client = AsyncClient(
            settings.url,
            settings.api_key,
            retry=RetryPolicy(max_tries=1),
            breaker=None,
            max_connections=max_calls,
            ca_file=settings.ca_file,
        )

    async def call(self, call: JobCall) -> bytes:
        """Make a job's call; return the answer's JSON; raises TryFailed."""
        fields: dict[str, Any] = msgspec.json.decode(call.request)
        given = {name: value for name, value in fields.items() if value is not None and name not in _NOT_SENT}
        try:
            completion = await self._client.complete(
                **given,
                idempotency_key=call.idempotency_key,
                extra_headers={CHARGED_KEY_HEADER: call.account},
            )
        except errors.TollhouseError as error:
            verdict, is_unknown = _verdict(error), error.may_be_billed
            raise TryFailed(verdict, _failure(error), error.retry_after_s, is_unknown=is_unknown) from error
        except ValueError as error:
            raise TryFailed("final", Failure("ai_invalid_request", str(error))) from error
        return _answer(completion)

    async def close(self) -> None:
        await self._client.close()


def _answer(completion: Completion) -> bytes:
    """Return an answer as ``POST /ai/complete`` gives it."""
    told = msgspec.structs.asdict(completion)
    del told["idempotency_key"], told["replayed"]
    return _encode(told)


def _verdict(error: errors.TollhouseError) -> Verdict:
    match error:
        case errors.CallTimeout(replayed=True):
            return "lost"
        case errors.ApiError(may_be_billed=True):
            return "again"
        case errors.NotConnected() | errors.CircuitOpen() | errors.UnexpectedAnswer() | errors.Unauthorized():
            # The last two are the operator's to put right: the wrong address, or the wrong key.
            return "away"
        case errors.Unavailable() | errors.RateLimited() | errors.IdempotencyInFlight():
            return "wait"
        case errors.ApiError() if error.status < 500 and not isinstance(error, errors.RequestTimeout):
            return "final"
        case _:
            return "again"


def _failure(error: errors.TollhouseError) -> Failure:
    """Return what the user of a job is told of an error."""
    if error.code == _REJECTED:
        return Failure(error.code, "the provider refused the request", said=error.message)
    if error.code is not None:
        return Failure(error.code, error.message)
    code = "ai_timeout" if isinstance(error, errors.DeadlineExceeded) else "ai_unavailable"
    return Failure(code, error.message)
