"""What a ``response`` object of OpenAI's Responses API says, whole or as the end of a stream."""

from typing import Any

import msgspec

from tollhouse.providers.base import OutcomeUnknown, ProviderError, WireResponse
from tollhouse.providers.conversation import FinishReason, Text, Thinking, ToolCall
from tollhouse.providers.parsing import ABSENT, Count, reports_use, usage_or_none
from tollhouse.providers.refusals import VendorError, failure, overloaded, vendor_error
from tollhouse.providers.usage import Usage

# The calls that a client has to answer before the model goes on.
_CLIENT_CALLS = frozenset(
    {
        "function_call",
        "custom_tool_call",
        "computer_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "mcp_approval_request",
    }
)
_INCOMPLETE: dict[Any, FinishReason] = {"max_output_tokens": "length", "content_filter": "content_filter"}
# What the caller sent is to blame for these, although they come without the status of a refused request.
_REQUEST_TYPES = frozenset({"invalid_request_error", "image_generation_user_error"})
_REQUEST_CODES = frozenset(
    {
        "invalid_prompt",
        "bio_policy",
        "invalid_image",
        "invalid_image_format",
        "invalid_base64_image",
        "invalid_image_url",
        "image_too_large",
        "image_too_small",
        "image_parse_error",
        "image_content_policy_violation",
        "invalid_image_mode",
        "image_file_too_large",
        "unsupported_image_media_type",
        "empty_image_file",
        "failed_to_download_image",
        "image_file_not_found",
    }
)


class Reply(msgspec.Struct):
    """A response object; ``usage`` is still to be decoded."""

    output: Any = None
    status: Any = None
    usage: msgspec.Raw = ABSENT
    tool_usage: Any = None
    error: Any = None
    incomplete_details: Any = None
    id: Any = None


class _InputDetails(msgspec.Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: Count | None = None


class _ReportedUsage(msgspec.Struct):
    input_tokens: Count
    output_tokens: Count
    total_tokens: Count | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


_usage_decoder = msgspec.json.Decoder(_ReportedUsage)


def output_items(reply: Reply) -> list[dict[str, Any]]:
    """Return what the model made, item by item."""
    return [item for item in reply.output if isinstance(item, dict)] if isinstance(reply.output, list) else []


def usage_of(reply: Reply, searches: int | None = None) -> Usage | None:
    """Return a response's usage in classes; None where it has none that can be read.

    Args:
        reply: the response.
        searches: how many searches its items tell of, where they were counted elsewhere.
    """
    usage = usage_or_none(reply.usage, _usage_decoder, _classify)
    if usage is None:
        return None
    if searches is None:
        searches = sum(map(is_search, output_items(reply)))
    searches = _billable_searches(reply.tool_usage) or searches
    return msgspec.structs.replace(usage, web_searches=searches) if searches else usage


def _classify(reported: _ReportedUsage) -> Usage:
    """Sort OpenAI's counts: input includes both cache classes, output includes reasoning.

    Compatible servers that leave reasoning out of the output show it in a total above the sum, or in more reasoning
    than output, as in their chat completions.
    """
    details = reported.input_tokens_details or _InputDetails()
    cached, written = details.cached_tokens or 0, details.cache_write_tokens or 0
    output = reported.output_tokens
    reasoning = (reported.output_tokens_details or _OutputDetails()).reasoning_tokens or 0
    beyond = (reported.total_tokens or 0) - reported.input_tokens - output
    if beyond > 0 or reasoning > output:
        reasoning = max(reasoning, beyond)
    else:
        output -= reasoning
    return Usage(
        input_tokens=reported.input_tokens - cached - written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
        reasoning_tokens=reasoning,
    )


def _billable_searches(tool_usage: Any) -> int:
    """Return the searches that OpenAI itself says it bills; 0 where it does not say."""
    try:
        count = tool_usage["web_search"]["num_requests"]
    except (TypeError, KeyError, IndexError):
        return 0
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 < count < 1_000_000 else 0


def is_search(item: dict[str, Any]) -> bool:
    """Tell whether an item is a search of the web, which is billed by use; opening a page that was found is not."""
    if item.get("type") != "web_search_call":
        return False
    action = item.get("action")
    kind = action.get("type") if isinstance(action, dict) else None
    return kind not in ("open_page", "find_in_page", "find")


def parts_of(item: dict[str, Any]) -> tuple[Text | ToolCall | Thinking, ...]:
    """Return the parts of an answer that an item holds; none for the traces of the provider's own tools."""
    kind = item.get("type")
    if kind == "message":
        return tuple(Text(text) for _, text in message_texts(item))
    if kind == "function_call":
        return (ToolCall(call_id(item), text_of(item.get("name")), text_of(item.get("arguments")) or "{}"),)
    if kind == "reasoning":
        text, sealed = reasoning_text(item), text_of(item.get("encrypted_content")) or None
        if text:
            return (Thinking(text, signature=sealed),)
        return (Thinking("", redacted=sealed),) if sealed else ()
    return ()


def message_texts(item: dict[str, Any]) -> list[tuple[int, str]]:
    """Return the texts of a message, refusals included, each with its place among the message's parts."""
    content = item.get("content")
    found = []
    for i, part in enumerate(content if isinstance(content, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("output_text", "refusal"):
            found.append((i, text_of(part.get("text" if kind == "output_text" else "refusal"))))
    return found


def is_refusal(item: dict[str, Any]) -> bool:
    """Tell whether a message refuses what was asked."""
    content = item.get("content") if item.get("type") == "message" else None
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") == "refusal" and text_of(part.get("refusal")) for part in content
    )


def reasoning_text(item: dict[str, Any]) -> str:
    """Return what is shown of the model's reasoning: its summary, or itself where a server gives that instead."""
    for name in ("summary", "content"):
        pieces = item.get(name)
        if not isinstance(pieces, list):
            continue
        texts = [text_of(piece.get("text")) for piece in pieces if isinstance(piece, dict)]
        if joined := "\n\n".join(text for text in texts if text):
            return joined
    return ""


def call_id(item: dict[str, Any]) -> str:
    """Return what pairs a call with its result."""
    return text_of(item.get("call_id")) or text_of(item.get("id"))


def text_of(value: Any) -> str:
    """Return a text, or "" for whatever else there is."""
    return value if isinstance(value, str) else ""


def finish_reason(reply: Reply, *, refuses: bool, has_calls: bool) -> FinishReason:
    """Return why the model came to its end."""
    if reply.status == "incomplete":
        details = reply.incomplete_details
        reason = details.get("reason") if isinstance(details, dict) else None
        return _INCOMPLETE.get(reason, "other") if isinstance(reason, str) else "other"
    # Servers that speak this API leave the status out, or spell it their own way: "complete".
    if not isinstance(reply.status, str) or reply.status in {"completed", "complete"}:
        if refuses:
            return "refusal"
        return "tool_calls" if has_calls else "stop"
    return "other"


def is_client_call(item: dict[str, Any]) -> bool:
    """Tell whether an item asks the client for something before the model goes on."""
    kind = item.get("type")
    return isinstance(kind, str) and kind in _CLIENT_CALLS


def failed(error: Any, *, usage: msgspec.Raw, has_output: bool, secret: str) -> ProviderError:
    """Return what an error stands for that came in place of an answer, under status 200 or within a stream.

    Args:
        error: its object, as decoded.
        usage: what was reported beside it.
        has_output: the model had begun to make something, which may be billed.
        secret: the key the call was made with, which is taken out of any reason passed on.
    """
    if has_output:
        return OutcomeUnknown("the provider broke the answer off with an error, and may bill what it had made")
    if reports_use(usage):
        return OutcomeUnknown("the provider answered with an error, yet reported usage that it may bill")
    try:
        body = msgspec.json.encode({"error": error})
    except (RecursionError, msgspec.MsgspecError, UnicodeEncodeError):
        body = b""
    reported = vendor_error(body) if error else None
    if reported is None:
        return OutcomeUnknown("the provider answered with an error that cannot be read")
    if not (_REQUEST_CODES | _REQUEST_TYPES).isdisjoint(reported.codes):
        return failure(WireResponse(400, {}, body), secret=secret, is_operators=is_operators)
    return overloaded(WireResponse(200, {}, body), reported)


def is_operators(error: VendorError) -> bool:
    """Tell whether an error is about the model that the operator configured."""
    return "model_not_found" in error.codes
