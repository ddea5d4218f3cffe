"""Writing answers as ``response`` objects: what a whole answer is, and what the events of a stream hold."""

from typing import Any

import msgspec

from tollhouse.completions.wire.base import AnswerHead, Asked
from tollhouse.providers.conversation import FinishReason, ProviderAnswer, Text, Thinking, ToolCall
from tollhouse.providers.responses.foreign import sealed
from tollhouse.providers.usage import Usage

encode = msgspec.json.Encoder().encode

_INCOMPLETE: dict[FinishReason, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
# What a response repeats of its request, and what it says where the request leaves it out.
_REPEATED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "temperature": None,
    "tool_choice": "auto",
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
_TOOL: dict[str, Any] = {"description": None, "parameters": None, "strict": None}


def response_object(head: AnswerHead, asked: Asked | None) -> dict[str, Any]:
    """Return a response that has only begun."""
    body = {} if asked is None else {name: value for name, value in asked.body.items() if value is not None}
    reasoning, text = body.get("reasoning") or {}, body.get("text") or {}
    return {
        "id": f"resp_{_bare(head)}",
        "object": "response",
        "created_at": head.created_s,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": head.model,
        "output": [],
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "service_tier": "default",
        # No answer can be fetched, or gone on from, by its id.
        "store": False,
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": "medium"},
        "tools": [{**_TOOL, **tool} for tool in body.get("tools") or ()],
        "top_logprobs": 0,
        "usage": None,
        **{name: body.get(name, default) for name, default in _REPEATED.items()},
    }


def ended(
    response: dict[str, Any], output: list[dict[str, Any]], finish_reason: FinishReason, usage: Usage
) -> dict[str, Any]:
    """Return a response that has come to its end."""
    reason = _INCOMPLETE.get(finish_reason)
    return {
        **response,
        "status": "completed" if reason is None else "incomplete",
        "incomplete_details": None if reason is None else {"reason": reason},
        "completed_at": response["created_at"] if reason is None else None,
        "output": output,
        "usage": usage_object(usage),
    }


def whole_response(answer: ProviderAnswer, usage: Usage, head: AnswerHead) -> bytes:
    """Return a whole answer's body."""
    parts = answer.parts or ((Text(answer.content),) if answer.content else ())
    refuses = answer.finish_reason == "refusal"
    output = [item(part, item_id(part, head, i), refuses=refuses) for i, part in enumerate(parts)]
    if output and answer.finish_reason in _INCOMPLETE:
        output[-1]["status"] = "incomplete"
    return encode(ended(response_object(head, head.asked), output, answer.finish_reason, usage))


def item_id(part: Text | ToolCall | Thinking, head: AnswerHead, index: int) -> str:
    """Return the id of the item that a part becomes."""
    kind = "msg" if isinstance(part, Text) else "fc" if isinstance(part, ToolCall) else "rs"
    return f"{kind}_{_bare(head)}{index:04x}"


def item(part: Text | ToolCall | Thinking, own_id: str, *, refuses: bool = False) -> dict[str, Any]:
    """Return the item that a whole part is."""
    if isinstance(part, Text):
        content = refusal_part(part.text) if refuses else text_part(part.text)
        return {"id": own_id, "type": "message", "status": "completed", "role": "assistant", "content": [content]}
    if isinstance(part, ToolCall):
        call: dict[str, Any] = {
            "id": own_id,
            "type": "function_call",
            "status": "completed",
            "call_id": part.id,
            "name": part.name,
            "arguments": part.arguments,
        }
        if part.signature is not None:
            # Where Google's own compatible API puts it. OpenAI's SDKs keep fields that they do not know.
            call["extra_content"] = {"google": {"thought_signature": part.signature}}
        return call
    summary = [summary_part(part.text)] if part.text else []
    return {"id": own_id, "type": "reasoning", "summary": summary, "encrypted_content": sealed(part)}


def text_part(text: str) -> dict[str, Any]:
    """Return a message's text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def refusal_part(text: str) -> dict[str, Any]:
    """Return a message's text that refuses what was asked."""
    return {"type": "refusal", "refusal": text}


def summary_part(text: str) -> dict[str, Any]:
    """Return what is shown of the model's reasoning."""
    return {"type": "summary_text", "text": text}


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return usage in OpenAI's counting: input includes what was cached, output what was thought."""
    read = usage.all_input_tokens
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
        },
        "output_tokens": usage.total_tokens - read,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _bare(head: AnswerHead) -> str:
    return head.id.removeprefix("req_")
