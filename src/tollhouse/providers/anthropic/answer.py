"""A whole answer of the Messages API, and its usage in classes."""

from typing import Any

import msgspec

from tollhouse.providers.base import OutcomeUnknown, WireResponse
from tollhouse.providers.conversation import FinishReason, ProviderAnswer, Text, Thinking, ToolCall
from tollhouse.providers.parsing import ABSENT, UNREADABLE, Count, first_id, usage_or_none
from tollhouse.providers.refusals import VendorError
from tollhouse.providers.usage import Usage

FINISH: dict[str | None, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
}


class _CacheCreation(msgspec.Struct):
    ephemeral_1h_input_tokens: Count | None = None
    ephemeral_5m_input_tokens: Count | None = None


class _OutputDetails(msgspec.Struct):
    thinking_tokens: Count | None = None


class _ServerTools(msgspec.Struct):
    web_search_requests: Count | None = None


class _Iteration(msgspec.Struct):
    type: str = ""
    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: _CacheCreation | None = None


class _Usage(msgspec.Struct):
    input_tokens: Count
    output_tokens: Count
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None
    server_tool_use: _ServerTools | None = None
    iterations: list[_Iteration] | None = None


class Block(msgspec.Struct):
    """A block of an answer. Blocks of types yet to come may use these names for something else, hence their types."""

    type: str
    text: Any = None
    thinking: Any = None
    signature: Any = None
    data: Any = None
    id: Any = None
    name: Any = None
    input: msgspec.Raw = ABSENT


class _Answer(msgspec.Struct):
    content: list[Block]
    stop_reason: str | None = None
    stop_sequence: Any = None
    usage: msgspec.Raw = ABSENT
    id: Any = None


_decoder = msgspec.json.Decoder(_Answer)
_usage_decoder = msgspec.json.Decoder(_Usage)


def decode_answer(response: WireResponse) -> ProviderAnswer:
    """Translate a 200; raises OutcomeUnknown where it is no message."""
    try:
        answer = _decoder.decode(response.body)
        parts = [part for block in answer.content if (part := part_of(block)) is not None]
    except UNREADABLE as error:
        raise OutcomeUnknown("the provider's answer cannot be read as one of the Messages API") from error
    texts = [part.text for part in parts if isinstance(part, Text)]
    return ProviderAnswer(
        content="".join(texts),
        finish_reason=FINISH.get(answer.stop_reason, "other"),
        usage=usage_of(answer.usage),
        provider_request_id=first_id(response.headers.get("request-id"), answer.id),
        parts=() if len(texts) == len(parts) else tuple(parts),
        stop_sequence=answer.stop_sequence if isinstance(answer.stop_sequence, str) else None,
    )


def part_of(block: Block) -> Text | ToolCall | Thinking | None:
    """Return a block as a part; None for what concerns nobody but Anthropic's own client, as server tools do."""
    match block.type:
        case "text" if isinstance(block.text, str):
            return Text(block.text)
        case "tool_use" if isinstance(block.id, str) and isinstance(block.name, str):
            arguments = bytes(block.input).decode()
            return ToolCall(block.id, block.name, arguments if arguments.startswith("{") else "{}")
        case "thinking" if isinstance(block.thinking, str):
            return Thinking(block.thinking, block.signature if isinstance(block.signature, str) else None)
        case "redacted_thinking" if isinstance(block.data, str):
            return Thinking("", redacted=block.data)
        case _:
            return None


def usage_of(reported: msgspec.Raw) -> Usage | None:
    """Return a usage block in classes; None where there is none that can be read."""
    return usage_or_none(reported, _usage_decoder, _classify)


def _classify(reported: _Usage) -> Usage:
    """Sort Anthropic's counts: input excludes both cache classes, output includes thinking.

    Of ``iterations``, those of type ``compaction`` are billed beside the sums, which leave them out. The others repeat
    the sums, or are another model's, which no request that this service lets through asks for.
    """
    written_5m, written_1h = _written(reported)
    details = reported.output_tokens_details
    thinking = (details.thinking_tokens or 0) if details else 0
    tools = reported.server_tool_use
    usage = Usage(
        input_tokens=reported.input_tokens,
        cached_input_tokens=reported.cache_read_input_tokens or 0,
        cache_write_tokens=written_5m,
        cache_write_1h_tokens=written_1h,
        output_tokens=reported.output_tokens - thinking,
        reasoning_tokens=thinking,
        web_searches=(tools.web_search_requests or 0) if tools else 0,
    )
    for each in reported.iterations or ():
        if each.type == "compaction":
            usage = _with_compaction(usage, each)
    return usage


def _with_compaction(usage: Usage, compaction: _Iteration) -> Usage:
    written_5m, written_1h = _written(compaction)
    return msgspec.structs.replace(
        usage,
        input_tokens=usage.input_tokens + compaction.input_tokens,
        cached_input_tokens=usage.cached_input_tokens + (compaction.cache_read_input_tokens or 0),
        cache_write_tokens=usage.cache_write_tokens + written_5m,
        cache_write_1h_tokens=usage.cache_write_1h_tokens + written_1h,
        output_tokens=usage.output_tokens + compaction.output_tokens,
    )


def _written(reported: _Usage | _Iteration) -> tuple[int, int]:
    """Return what was written into the cache for five minutes and for an hour; negative where that is contradictory."""
    split, written = reported.cache_creation, reported.cache_creation_input_tokens
    if split is None:
        return written or 0, 0
    in_1h, in_5m = split.ephemeral_1h_input_tokens or 0, split.ephemeral_5m_input_tokens or 0
    if written is None:
        return in_5m, in_1h
    if in_1h and not in_5m and written > in_1h:
        # A stream tells the lifetimes once, at its start; what server tools add to the cache later is of the same kind.
        return 0, written
    return written - in_1h, in_1h


def is_operators(error: VendorError) -> bool:
    """Tell an empty account and a spend limit, which come as 400 invalid_request_error, by their text."""
    return "credit balance is too low" in error.message or "API usage limits" in error.message
