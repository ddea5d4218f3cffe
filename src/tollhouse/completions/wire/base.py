"""What the pipeline knows of a client's API: requests to read, answers, events and errors to write."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from tollhouse.errors import InvalidRequest, TollhouseError
from tollhouse.providers.base import ApiName
from tollhouse.providers.conversation import ProviderAnswer, ProviderRequest, StreamEvent
from tollhouse.providers.usage import Usage


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A request in an API's own format, read as far as every call needs.

    Attributes:
        body: its JSON, as it came: what is relayed, and what ``Api.translated`` reads in full.
        model: the model as the client names it.
        max_tokens: the output limit it sets, for each answer; None where it sets none.
        answers: how many answers it may bring, each of up to ``max_tokens``: alternatives it asks for, or a summary of
            what came before.
        is_stream: the answer is wanted in events.
        shows_usage: in a stream, the client wants to see the usage.
        is_hidden: tells, by its data, of an event of a relayed stream that the client has not asked for.
        user: the end user it names, if any; whose call it is where no header says so.
        max_searches: how often the provider may use its own search tools for it; 0 where it offers none.
        max_steps: how often the provider may go on by itself, searches included: to run its tools, or to sum up what
            came before. Each time it reads everything again.
        reads_stored: some of the input is not in the body: the provider has stored it, or fetches or finds it. Only the
            model's context window bounds it then.
    """

    body: dict[str, Any]
    model: str
    max_tokens: int | None
    answers: int = 1
    is_stream: bool = False
    shows_usage: bool = True
    user: str | None = None
    max_searches: int = 0
    max_steps: int = 0
    reads_stored: bool = False
    is_hidden: Callable[[bytes], bool] | None = None


class AnswerHead(msgspec.Struct, frozen=True, gc=False):
    """What an answer says besides what the model made.

    Attributes:
        id: the call's request id.
        model: the model as the client named it.
        created_s: Unix time.
        asked: the request, for an API whose answers repeat parts of it; None leaves those at their defaults.
    """

    id: str
    model: str
    created_s: int
    asked: Asked | None = None


class StreamWriter(Protocol):
    """Writes one streamed answer in a client's format, and does no I/O. Each method returns bytes to be sent."""

    def begin(self) -> bytes:
        """Return what comes before anything the model made."""

    def write(self, event: StreamEvent) -> bytes:
        """Return an event of the model; b"" where this format says nothing of it yet."""

    def end(self, usage: Usage) -> bytes:
        """Return what comes last, the finish reason of the ``Finished`` that was written included."""


class Api(Protocol):
    """One client API. Implementations are pure, and made once.

    Attributes:
        names: what it calls fields of the neutral request, where it calls them otherwise.
    """

    name: ApiName
    names: Mapping[str, str]

    def read(self, raw: bytes, path_model: str | None = None, *, is_stream: bool = False) -> Asked:
        """Read a request.

        Args:
            raw: the body.
            path_model: the model, for an API whose path names it.
            is_stream: the path says that the answer is wanted in events, for such an API.

        Raises:
            InvalidRequest: it is no JSON object, or what every call needs is missing or malformed; by field.
        """

    def limited(self, asked: Asked, max_tokens: int) -> dict[str, Any]:
        """Return the body to be relayed: with this output limit and, in a stream, with the usage asked for."""

    def translated(self, asked: Asked, max_tokens: int) -> ProviderRequest:
        """Read the whole request for a provider of another format; its ``model`` is the client's name for it.

        Raises:
            InvalidRequest: a field is malformed, or says what cannot be translated; by name.
        """

    def answer(self, answer: ProviderAnswer, usage: Usage, head: AnswerHead) -> bytes:
        """Write an answer's body."""

    def stream_writer(self, asked: Asked, head: AnswerHead) -> StreamWriter:
        """Return what writes one streamed answer."""

    def error(self, error: TollhouseError, request_id: str) -> bytes:
        """Write an error's body: the API's own shape, with Tollhouse's code as its ``code`` or ``type``."""

    def stream_error(self, error: TollhouseError, request_id: str) -> bytes:
        """Write the event that ends a stream which fails after it began."""


_NAME = re.compile(r"([a-z_]+)((?:\[\d+\]|\.)[^:]*)?: ", re.ASCII)


def in_its_words(refusal: InvalidRequest, names: Mapping[str, str]) -> InvalidRequest:
    """Return a provider's refusal of the neutral request with the name that its client knows the field by.

    Where it names a place within the turns, only these are named: the client's own may be numbered otherwise, since
    system prompts and results of tools stand elsewhere in its format.
    """
    found = _NAME.match(refusal.message)
    if found is None:
        return refusal
    return InvalidRequest(f"{names.get(found[1], found[1])}: {refusal.message[found.end() :]}")


def only_known(body: dict[str, Any], known: Sequence[str], where: str = "") -> None:
    """Refuse fields that no translation knows; raises InvalidRequest with their names."""
    unknown = [f"{where}{name[:64]}" for name, value in body.items() if name not in known and value is not None]
    if unknown:
        raise InvalidRequest(
            f"{', '.join(unknown[:5])}: cannot be translated for the model's provider, which speaks another format"
        )
