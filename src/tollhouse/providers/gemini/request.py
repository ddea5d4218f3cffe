"""From the neutral request to the body of generateContent (https://ai.google.dev/api/generate-content)."""

from typing import Any

import msgspec

from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import (
    Media,
    Message,
    Part,
    ProviderRequest,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from tollhouse.providers.gemini.foreign import UNSIGNED
from tollhouse.providers.gemini.generations import generation_of, thinking_config
from tollhouse.providers.parsing import UNREADABLE

_JsonObject = msgspec.json.Decoder(dict[str, Any])


class _Blob(msgspec.Struct, rename="camel"):
    mime_type: str
    data: str


class _File(msgspec.Struct, omit_defaults=True, rename="camel"):
    file_uri: str
    mime_type: str | None = None


class _Call(msgspec.Struct):
    id: str
    name: str
    args: msgspec.Raw


class _Response(msgspec.Struct, omit_defaults=True):
    id: str
    name: str
    response: dict[str, str]
    parts: "tuple[_Part, ...]" = ()


class _Part(msgspec.Struct, omit_defaults=True, rename="camel"):
    # What is not given is None, so that an empty text is sent as one.
    text: str | None = None
    inline_data: _Blob | None = None
    file_data: _File | None = None
    function_call: _Call | None = None
    function_response: _Response | None = None
    thought_signature: str | None = None


class _Turn(msgspec.Struct, omit_defaults=True):
    parts: tuple[_Part, ...]
    role: str = ""


class _Declaration(msgspec.Struct, omit_defaults=True, rename="camel"):
    name: str
    description: str | None = None
    # The schema as it came: the older field, ``parameters``, takes a subset of OpenAPI's, and every keyword that it
    # lacks (additionalProperties, $ref, const, …) would be lost in cleaning.
    parameters_json_schema: dict[str, Any] | None = None


class _Tools(msgspec.Struct, rename="camel"):
    function_declarations: tuple[_Declaration, ...]


class _Calling(msgspec.Struct, omit_defaults=True, rename="camel"):
    mode: str
    allowed_function_names: tuple[str, ...] = ()


class _ToolConfig(msgspec.Struct, rename="camel"):
    function_calling_config: _Calling


class _GenerationConfig(msgspec.Struct, omit_defaults=True, rename="camel"):
    max_output_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop_sequences: tuple[str, ...] = ()
    response_mime_type: str | None = None
    response_json_schema: dict[str, Any] | None = None
    thinking_config: dict[str, Any] | None = None


class _Body(msgspec.Struct, omit_defaults=True, rename="camel"):
    contents: list[_Turn]
    generation_config: _GenerationConfig
    system_instruction: _Turn | None = None
    tools: tuple[_Tools, ...] = ()
    tool_config: _ToolConfig | None = None


_encoder = msgspec.json.Encoder()


def encode_body(request: ProviderRequest) -> bytes:
    """Return the body for a request.

    Left out are hints that Google has no place for: cache markers (it caches by itself), an image's detail, a
    document's name, a schema's name, and the end user's id.

    Raises:
        InvalidRequest: by name, for what cannot be said in Google's format.
    """
    turns, system = _turns(request)
    if not turns:
        raise InvalidRequest("messages: expected at least one turn of the user, found system turns only")
    if request.allows_parallel_calls is False and request.tools:
        raise InvalidRequest("allows_parallel_calls: Google's API cannot keep a model to one tool call a turn")
    wants_json = request.is_json or request.response_schema is not None
    body = _Body(
        contents=turns,
        system_instruction=_Turn(tuple(system)) if system else None,
        generation_config=_GenerationConfig(
            # Thinking counts towards this limit, and so do the answer's tokens.
            max_output_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            seed=request.seed,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            stop_sequences=request.stop,
            response_mime_type="application/json" if wants_json else None,
            response_json_schema=request.response_schema,
            thinking_config=None if request.reasoning is None else thinking_config(request.model, request.reasoning),
        ),
        tools=(_Tools(tuple(map(_declaration, request.tools))),) if request.tools else (),
        tool_config=_tool_config(request.tools, request.tool_choice),
    )
    return _encoder.encode(body)


def _turns(request: ProviderRequest) -> tuple[list[_Turn], list[_Part]]:
    """Return the turns, and apart from them what the system says."""
    turns: list[_Turn] = []
    system: list[_Part] = []
    is_joinable = False
    for i, message in enumerate(request.messages):
        role = "model" if message.role == "assistant" else "user"
        if isinstance(message.content, str):
            parts: tuple[_Part, ...] = (_Part(message.content),)
        else:
            parts = _parts(message, f"messages[{i}].content", generation_of(request.model))
        if message.role == "system":
            system += parts
        elif not parts:
            continue  # A turn that was nothing but thinking.
        elif is_joinable and turns[-1].role == role and not isinstance(message.content, str):
            # Results of parallel calls have to stand in one turn, and so have the calls.
            turns[-1] = _Turn(turns[-1].parts + parts, role)
        else:
            turns.append(_Turn(parts, role))
            is_joinable = not isinstance(message.content, str)
    return turns, system


def _parts(message: Message, where: str, generation: int) -> tuple[_Part, ...]:
    parts: list[_Part] = []
    # Of parallel calls, Google signs the first alone.
    needs_signature = generation >= 3 and message.role == "assistant"
    for j, part in enumerate(message.parts):
        if message.role == "system" and not isinstance(part, Text):
            raise InvalidRequest(f"{where}[{j}].type: Google's system instruction takes text only")
        parts += _encoded(part, f"{where}[{j}]", generation)
        if isinstance(part, ToolCall) and needs_signature:
            parts[-1].thought_signature = part.signature or UNSIGNED
            needs_signature = False
    return tuple(parts)


def _encoded(part: Part, where: str, generation: int) -> list[_Part]:
    match part:
        case Text():
            return [_Part(part.text)]
        case Media():
            return [_media(part, where)]
        case ToolCall():
            call = _Call(part.id, part.name, _arguments(part.arguments, where))
            return [_Part(function_call=call, thought_signature=part.signature)]
        case ToolResult():
            return _result(part, where, generation)
        case Thinking():
            # Thinking does not tell whose it is, and another vendor's signature is refused. Google's own is no loss:
            # it needs back the signatures of calls, which stand with them.
            return []


def _media(media: Media, where: str) -> _Part:
    if media.base64 is not None:
        if media.media_type is None:
            raise InvalidRequest(f"{where}: expected a media type with the data, which Google wants to be told")
        return _Part(inline_data=_Blob(media.media_type, media.base64))
    if media.url is not None:
        return _Part(file_data=_File(media.url, media.media_type))
    raise InvalidRequest(f"{where}: expected data or an address, and found neither")


def _arguments(arguments: str, where: str) -> msgspec.Raw:
    """Return a call's arguments, which are JSON already, to be put into the body as they are."""
    try:
        raw = arguments.encode()
        _JsonObject.decode(raw)
    except (*UNREADABLE, UnicodeEncodeError):
        raise InvalidRequest(f"{where}.arguments: expected a JSON object") from None
    return msgspec.Raw(raw)


def _result(result: ToolResult, where: str, generation: int) -> list[_Part]:
    if not result.name:
        raise InvalidRequest(f"{where}: no call with this id comes before its result, and Google wants the tool's name")
    text = "\n".join(part.text for part in result.content if isinstance(part, Text))
    media = tuple(
        _media(part, f"{where}.content[{k}]") for k, part in enumerate(result.content) if isinstance(part, Media)
    )
    # Google's own words: a result stands under "output", and what went wrong under "error".
    said = {"error" if result.is_error else "output": text}
    if generation >= 3:
        return [_Part(function_response=_Response(result.call_id, result.name, said, media))]
    # Before the third generation a result is words only; what it shows stands beside it.
    return [_Part(function_response=_Response(result.call_id, result.name, said)), *media]


def _declaration(tool: Tool) -> _Declaration:
    return _Declaration(tool.name, tool.description, tool.parameters)


def _tool_config(tools: tuple[Tool, ...], choice: ToolChoice | None) -> _ToolConfig | None:
    if not tools:
        if choice is not None and choice.mode in {"required", "named"}:
            # Google's API would answer as if nothing had been asked for.
            raise InvalidRequest("tool_choice: expected tools with it, of which one can be called")
        return None
    match choice.mode if choice is not None else None:
        case "none":
            return _ToolConfig(_Calling("NONE"))
        case "required":
            return _ToolConfig(_Calling("ANY"))
        case "named":
            assert choice is not None, "it has a mode"
            return _ToolConfig(_Calling("ANY", (choice.name,)))
    if any(tool.is_strict for tool in tools):
        # As AUTO, but calls are held to their schemas, as they are in ANY.
        return _ToolConfig(_Calling("VALIDATED"))
    return None if choice is None else _ToolConfig(_Calling("AUTO"))
