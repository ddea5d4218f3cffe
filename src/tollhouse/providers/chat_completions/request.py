"""Writing a request in the chat completions format."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tollhouse.errors import InvalidRequest
from tollhouse.providers.chat_completions.media import media_part
from tollhouse.providers.conversation import (
    Media,
    Message,
    Part,
    ProviderRequest,
    Reasoning,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from tollhouse.providers.strict_schema import is_loose

PATH = "/chat/completions"

# How many tokens each effort is commonly taken to allow.
_BUDGETS = {"low": 1_024, "medium": 8_192, "high": 24_576}

encoder = msgspec.json.Encoder()


class ChatBody(msgspec.Struct, omit_defaults=True):
    """A request; exactly one of the two limits is set."""

    model: str
    messages: Sequence[Message | dict[str, Any]]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    thinking: dict[str, Any] | None = None
    """DeepSeek's switch."""
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None


def chat_body(request: ProviderRequest, messages: Sequence[Message | dict[str, Any]]) -> ChatBody:
    """Return what every server of this format is sent alike; limits, schema and reasoning are left to the adapters."""
    body = ChatBody(
        model=request.model,
        messages=messages,
        temperature=request.temperature,
        stop=request.stop,
        top_p=request.top_p,
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        user=request.user,
    )
    if request.is_json:
        body.response_format = {"type": "json_object"}
    if request.tools:
        body.tools = [_tool(tool) for tool in request.tools]
        body.parallel_tool_calls = request.allows_parallel_calls
    # Without tools, a choice that asks for none says nothing, and is refused all the same.
    choice = request.tool_choice
    if choice is not None and (request.tools or choice.mode in {"required", "named"}):
        body.tool_choice = _tool_choice(choice)
    if request.stream:
        body.stream = True
        body.stream_options = {"include_usage": True}
    return body


def is_plain(messages: Sequence[Message]) -> bool:
    """Tell whether messages stand in this format as they are."""
    return all(type(message.content) is str for message in messages)


def effort(reasoning: Reasoning) -> str:
    """Return how much a model is to think, in OpenAI's words: of a budget, the effort that comes closest."""
    if reasoning.effort is not None:
        return reasoning.effort
    budget = reasoning.budget_tokens or 0
    return min(_BUDGETS, key=lambda name: abs(_BUDGETS[name] - budget)) if budget > 0 else "none"


def chat_messages(
    messages: Sequence[Message],
    *,
    takes_media: bool = True,
    returns_thinking: bool = False,
    returns_signatures: bool = False,
) -> list[dict[str, Any]]:
    """Return a conversation in this format; raises InvalidRequest, by name, for what it cannot express.

    Args:
        messages: the turns, as the neutral model has them.
        takes_media: the server takes more than text, and content in parts; otherwise every content is one text.
        returns_thinking: the server wants what it thought back, with the turns in which it called tools.
        returns_signatures: the server is Google's, and wants the signatures of its calls back.
    """
    written: list[dict[str, Any]] = []
    # What tools brought besides text: it can only be shown in a turn of the user, once all the results are given.
    held: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        results = [(j, part) for j, part in enumerate(message.parts) if isinstance(part, ToolResult)]
        if held and not results:
            written.append({"role": "user", "content": held})
            held = []
        if message.role == "assistant":
            written.append(_assistant(message, where, returns_thinking, returns_signatures))
            continue
        if not results:
            numbered = list(enumerate(message.parts))
            content = _content(numbered, message.role, where, takes_media=takes_media)
            written.append({"role": message.role, "content": content})
            continue
        if message.role != "user":
            raise InvalidRequest(f"{where}.content: a tool's result belongs in a turn of the user")
        for j, result in results:
            written.append(_result(result, f"{where}.content[{j}]", held, takes_media=takes_media))
        rest = [(j, part) for j, part in enumerate(message.parts) if not isinstance(part, ToolResult)]
        if rest:
            content = _content(rest, "user", where, takes_media=takes_media)
            held.extend([{"type": "text", "text": content}] if isinstance(content, str) else content)
    if held:
        written.append({"role": "user", "content": held})
    return written if takes_media else [_as_text(message) for message in written]


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    return {**message, "content": _joined(content)} if isinstance(content, list) else message


def _joined(parts: list[dict[str, Any]]) -> str:
    return "\n\n".join(part["text"] for part in parts)


def _content(
    numbered: Sequence[tuple[int, Part]], role: Role, where: str, *, takes_media: bool
) -> str | list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for j, part in numbered:
        place = f"{where}.content[{j}]"
        if isinstance(part, Text):
            parts.append({"type": "text", "text": part.text})
        elif isinstance(part, Media) and role == "user":
            parts.append(_media(part, place, takes_media=takes_media))
        else:
            raise InvalidRequest(f"{place}: {_name(part)} cannot stand in a turn of the {role}")
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _media(part: Media, where: str, *, takes_media: bool) -> dict[str, Any]:
    written = media_part(part, where)
    if not takes_media and written["type"] != "text":
        raise InvalidRequest(f"{where}: this model's provider takes text only, no {_name(part)}")
    return written


def _assistant(message: Message, where: str, returns_thinking: bool, returns_signatures: bool) -> dict[str, Any]:
    if isinstance(message.content, str):
        return {"role": "assistant", "content": message.content}
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for j, part in enumerate(message.content):
        if isinstance(part, Text):
            texts.append(part.text)
        elif isinstance(part, ToolCall):
            calls.append(_call(part, returns_signatures=returns_signatures))
        elif isinstance(part, Thinking):
            # A signature is another vendor's: its thinking is of no use here.
            thoughts.extend([part.text] if part.signature is None and part.redacted is None else [])
        else:
            raise InvalidRequest(f"{where}.content[{j}]: {_name(part)} cannot stand in a turn of the assistant")
    written: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if calls:
        written["tool_calls"] = calls
        if returns_thinking:
            written["reasoning_content"] = "".join(thoughts)
    return written


def _call(part: ToolCall, *, returns_signatures: bool) -> dict[str, Any]:
    function = {"name": part.name, "arguments": part.arguments}
    call: dict[str, Any] = {"id": part.id, "type": "function", "function": function}
    if returns_signatures and part.signature is not None:
        call["extra_content"] = {"google": {"thought_signature": part.signature}}
    return call


def _result(result: ToolResult, where: str, held: list[dict[str, Any]], *, takes_media: bool) -> dict[str, Any]:
    """Return a tool's message, and keep the media of its result for the user's turn that follows."""
    texts: list[str] = []
    media: list[dict[str, Any]] = []
    for j, part in enumerate(result.content):
        if isinstance(part, Text):
            texts.append(part.text)
        else:
            media.append(_media(part, f"{where}.content[{j}]", takes_media=takes_media))
    if media:
        held.append({"type": "text", "text": f"Result of the tool call {result.call_id}:"})
        held.extend(media)
        texts = texts or ["The result is in the message of the user that follows."]
    said = "\n\n".join(texts)
    if result.is_error and not said.lower().startswith("error"):
        # The format has no field for it, and the model has to know.
        said = f"Error: {said}"
    return {"role": "tool", "tool_call_id": result.call_id, "content": said}


def _name(part: Part) -> str:
    if isinstance(part, Media):
        return part.kind
    return {Text: "text", ToolCall: "a tool call", ToolResult: "a tool's result", Thinking: "thinking"}[type(part)]


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.is_strict is not None:
        # What leaves properties open is refused as strict; it is followed all the same, less firmly.
        function["strict"] = tool.is_strict and not is_loose(tool.parameters)
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    return {"type": "function", "function": {"name": choice.name}} if choice.mode == "named" else choice.mode
