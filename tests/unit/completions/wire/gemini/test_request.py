import base64
import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.recorded import RECORDED
from tollhouse.completions.wire.gemini.api import GeminiApi
from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import (
    Media,
    Message,
    ProviderRequest,
    Reasoning,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

API = GeminiApi()
HELLO = [{"role": "user", "parts": [{"text": "Hello"}]}]


def read(body: dict[str, Any], **path: Any) -> Any:
    return API.read(json.dumps(body).encode(), "gemini-2.5-flash", **path)


def translated(contents: Any = HELLO, **fields: Any) -> ProviderRequest:
    asked = read({"contents": contents, **fields})
    return API.translated(asked, 77)


def configured(**config: Any) -> ProviderRequest:
    return translated(generationConfig=config)


def declared(parameters: Any) -> Any:
    tools = [{"functionDeclarations": [{"name": "f", "parameters": parameters}]}]
    return translated(tools=tools).tools[0].parameters


def test_what_every_call_needs_is_read():
    body = {
        "contents": HELLO,
        "generation_config": {"max_output_tokens": 40, "candidateCount": 2},
        "tools": [{"google_search": {}}],
    }
    asked = API.read(json.dumps(body).encode(), "models/gemini-x", is_stream=True)
    assert asked.model == "gemini-x"
    assert asked.max_tokens == 40
    assert asked.answers == 2
    assert asked.is_stream
    assert asked.shows_usage
    assert asked.max_searches == 10
    assert asked.body == body
    plain = read({"contents": HELLO})
    assert (plain.max_tokens, plain.answers, plain.max_searches, plain.is_stream) == (None, 1, 0, False)


@pytest.mark.parametrize(
    ("tools", "searches", "steps"),
    [
        ([{"codeExecution": {}}], 0, 10),
        ([{"url_context": {}}], 0, 10),
        ([{"googleSearch": {}}, {"urlContext": {}}], 10, 10),
        ([{"functionDeclarations": [{"name": "f"}]}, {"computerUse": {}}], 0, 0),
    ],
)
def test_googles_own_tools_read_everything_again(tools, searches, steps):
    asked = read({"contents": HELLO, "tools": tools})
    assert (asked.max_searches, asked.max_steps) == (searches, steps)


@pytest.mark.parametrize("name", ["googleMaps", "google_maps"])
def test_a_tool_that_is_billed_by_use_and_counted_nowhere_is_refused(name):
    with pytest.raises(InvalidRequest, match=r"^tools\[0\].googleMaps: "):
        read({"contents": HELLO, "tools": [{name: {}}]})


@pytest.mark.parametrize(
    ("body", "limited"),
    [
        ({}, {"generationConfig": {"maxOutputTokens": 9}}),
        (
            {"generation_config": {"max_output_tokens": 4, "top_k": 1}},
            {"generation_config": {"top_k": 1, "maxOutputTokens": 9}},
        ),
        ({"generationConfig": None}, {"generationConfig": {"maxOutputTokens": 9}}),
        (
            {"generationConfig": None, "generation_config": {"maxOutputTokens": 99, "candidateCount": 2}},
            {"generation_config": {"candidateCount": 2, "maxOutputTokens": 9}},
        ),
    ],
)
def test_the_limit_replaces_the_one_that_was_there(body, limited):
    asked = read({"contents": HELLO, **body})
    assert API.limited(asked, 9) == {"contents": HELLO, **limited}
    assert asked.body == {"contents": HELLO, **body}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not valid JSON"),
        (b"[]", "the body: expected `object`, got `array`"),
        (b'{"contents":' + b"[" * 70 + b"]" * 70 + b"}", "the body: is nested more than 64 levels deep"),
        (b"[" * 100_000, ""),
        (b"{}", "contents: is required"),
        (
            b'{"contents":[],"generationConfig":{},"generation_config":{}}',
            "generationConfig: is given twice, in camelCase and in snake_case",
        ),
        (b'{"contents":[],"generationConfig":3}', "generationConfig: expected an object"),
        (b'{"contents":[],"generationConfig":{"maxOutputTokens":0}}', "generationConfig.maxOutputTokens: expected an"),
        (b'{"contents":[],"generationConfig":{"maxOutputTokens":true}}', "generationConfig.maxOutputTokens: expected"),
        (b'{"contents":[],"generationConfig":{"maxOutputTokens":1.5}}', "generationConfig.maxOutputTokens: expected"),
        (b'{"contents":[],"generationConfig":{"candidateCount":9}}', "generationConfig.candidateCount: expected 1 to"),
        (b'{"contents":[],"tools":[3]}', "tools[0]: expected an object"),
        (b'{"contents":[],"serviceTier":"priority"}', "serviceTier: other tiers have other prices"),
    ],
)
def test_what_cannot_be_read_is_told_by_field(body, message):
    with pytest.raises(InvalidRequest) as refused:
        API.read(body, "m")
    assert refused.value.message.startswith(message)


@pytest.mark.parametrize("path", [None, "", "models/"])
def test_the_path_has_to_name_the_model(path):
    with pytest.raises(InvalidRequest, match=r"^model: is required, in the path"):
        API.read(b'{"contents":[]}', path)


def test_the_smallest_request_is_translated():
    assert translated({"parts": {"text": "Hello"}}) == ProviderRequest(
        model="gemini-2.5-flash", messages=(Message("user", (Text("Hello"),)),), max_tokens=77
    )


def test_the_fullest_configuration_is_translated():
    request = translated(
        system_instruction={"parts": {"text": "Be brief."}},
        generationConfig={
            "maxOutputTokens": 5,
            "candidateCount": 1,
            "stopSequences": ["A"],
            "temperature": 0,
            "topP": 0.25,
            "topK": 40.0,
            "seed": -1,
            "presencePenalty": 0.5,
            "frequencyPenalty": -0.5,
            "responseMimeType": "application/json",
            "responseModalities": ["TEXT"],
            "thinkingConfig": {"thinkingBudget": 512, "includeThoughts": True},
        },
        safetySettings=[{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}, {"threshold": "OFF"}],
        toolConfig={},
        tools=[],
    )
    assert request == ProviderRequest(
        model="gemini-2.5-flash",
        messages=(Message("system", "Be brief."), Message("user", (Text("Hello"),))),
        max_tokens=77,
        temperature=0,
        stop=("A",),
        is_json=True,
        reasoning=Reasoning(budget_tokens=512),
        top_p=0.25,
        top_k=40,
        seed=-1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
    )


def test_a_stream_stays_one():
    assert API.translated(read({"contents": HELLO}, is_stream=True), 1).stream


@pytest.mark.parametrize(
    ("thinking", "reasoning"),
    [
        ({"thinkingBudget": -1}, None),
        ({"includeThoughts": True}, None),
        ({"thinkingBudget": 0}, Reasoning(effort="none")),
        ({"thinking_level": "LOW"}, Reasoning(effort="low")),
        ({"thinkingLevel": "high"}, Reasoning(effort="high")),
        ({"thinkingLevel": "THINKING_LEVEL_UNSPECIFIED"}, None),
    ],
)
def test_how_much_to_think_is_translated(thinking, reasoning):
    assert configured(thinkingConfig=thinking).reasoning == reasoning


def test_media_are_translated():
    url_safe = base64.urlsafe_b64encode(b"\xfb\xff\xfe\xff").decode()
    assert url_safe == "-__-_w=="
    contents = [
        {
            "parts": [
                {"inline_data": {"mime_type": "image/png", "data": url_safe.rstrip("=")}},
                {
                    "fileData": {"mimeType": "application/pdf", "fileUri": "https://example.com/a", "displayName": "a"},
                },
                {
                    "inlineData": {"mimeType": "audio/wav", "data": "aGk="},
                    "mediaResolution": {"level": "MEDIA_RESOLUTION_LOW"},
                },
            ]
        }
    ]
    request = translated(contents, generationConfig={"mediaResolution": "MEDIA_RESOLUTION_HIGH"})
    assert request.messages[0].content == (
        Media("image", "image/png", base64="+//+/w==", detail="high"),
        Media("document", "application/pdf", url="https://example.com/a", name="a", detail="high"),
        Media("audio", "audio/wav", base64="aGk=", detail="low"),
    )


def test_calls_and_results_are_paired_by_id_or_else_by_name():
    contents = [
        {"role": "user", "parts": [{"text": "x"}]},
        {
            "role": "model",
            "parts": [
                {"functionCall": {"name": "f", "args": {"n": 1}}},
                {"functionCall": {"name": "g"}, "thoughtSignature": "R29vZ2xl"},
                {"functionCall": {"name": "f", "args": {"n": 2}}},
                {"functionCall": {"id": "own", "name": "f"}},
            ],
        },
        {"role": "function", "parts": [{"functionResponse": {"name": "f", "response": {"output": "one"}}}]},
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "f", "response": {"a": 1, "b": 2}}},
                {"functionResponse": {"name": "g", "response": {"error": {"why": 3}}}},
                {
                    "functionResponse": {
                        "id": "own",
                        "name": "f",
                        "response": {"result": [1]},
                        "parts": [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}],
                    }
                },
            ],
        },
    ]
    _, model, first, rest = translated(contents).messages
    one, other, two, own = model.parts
    assert isinstance(one, ToolCall)
    assert isinstance(other, ToolCall)
    assert isinstance(two, ToolCall)
    assert len({one.id, other.id, two.id, "own"}) == 4
    assert one == ToolCall(one.id, "f", '{"n":1}')
    assert other == ToolCall(other.id, "g", "{}")  # Google's signature means nothing to another vendor.
    assert own == ToolCall("own", "f", "{}")
    assert first.content == (ToolResult(one.id, "f", (Text("one"),)),)
    assert rest.content == (
        ToolResult(two.id, "f", (Text('{"a":1,"b":2}'),)),
        ToolResult(other.id, "g", (Text('{"why":3}'),), is_error=True),
        ToolResult("own", "f", (Text("[1]"), Media("image", "image/png", base64="aGk="))),
    )


def test_a_call_that_was_never_answered_takes_no_later_result():
    turn = {"role": "model", "parts": [{"functionCall": {"name": "f"}}]}
    contents = [
        turn,
        {"parts": [{"text": "never mind"}]},
        turn,
        {"parts": [{"functionResponse": {"name": "f", "response": {}}}]},
    ]
    first, _, second, result = (message.parts[0] for message in translated(contents).messages)
    assert isinstance(first, ToolCall)
    assert isinstance(second, ToolCall)
    assert isinstance(result, ToolResult)
    assert result.call_id == second.id != first.id


def test_the_pieces_of_a_stream_are_one_turn_again():
    pieces: list[Any] = [
        {"text": "h", "thought": True},
        {"text": "m", "thought": True},
        {"thought": True, "text": ""},
        {"text": "Hel"},
        {"text": "lo", "thoughtSignature": "R29vZ2xl"},
        {"functionCall": {"id": "c", "name": "f"}},
        {"text": ""},
    ]
    contents = [*HELLO, *({"role": "model", "parts": [piece]} for piece in pieces), *HELLO]
    assert translated(contents).messages[1:] == (
        Message("assistant", (Thinking("hm"), Text("Hello"), ToolCall("c", "f", "{}"))),
        Message("user", (Text("Hello"),)),
    )


def test_googles_own_thinking_is_left_out():
    parts = [{"text": "hm", "thought": True, "thoughtSignature": "R29vZ2xl"}, {"text": "Hi"}, {"thoughtSignature": "R"}]
    assert translated([*HELLO, {"role": "model", "parts": parts}]).messages[1] == Message("assistant", (Text("Hi"),))


def test_tools_are_translated():
    tools = [
        {"functionDeclarations": [{"name": "f", "description": "F.", "parameters": {"type": "OBJECT"}}]},
        {"function_declarations": {"name": "g", "parameters_json_schema": {"$ref": "#/x", "a_b": 1}, "response": {}}},
    ]
    assert translated(tools=tools).tools == (
        Tool("f", "F.", {"type": "object"}),
        Tool("g", None, {"$ref": "#/x", "a_b": 1}),
    )


F, G, H = ({"name": name} for name in "fgh")


@pytest.mark.parametrize(
    ("calling", "names", "choice", "strict"),
    [
        (None, "fgh", None, None),
        ({"mode": "MODE_UNSPECIFIED"}, "fgh", None, None),
        ({"mode": "AUTO"}, "fgh", ToolChoice("auto"), None),
        ({"mode": "none"}, "fgh", ToolChoice("none"), None),
        ({"mode": "ANY"}, "fgh", ToolChoice("required"), None),
        ({"mode": "ANY", "allowed_function_names": ["g"]}, "fgh", ToolChoice("named", "g"), None),
        ({"mode": "ANY", "allowedFunctionNames": ["h", "f"]}, "fh", ToolChoice("required"), None),
        ({"mode": "VALIDATED"}, "fgh", ToolChoice("auto"), True),
        ({"mode": "VALIDATED", "allowedFunctionNames": ["g"]}, "g", ToolChoice("auto"), True),
    ],
)
def test_whether_tools_are_called_is_translated(calling, names, choice, strict):
    request = translated(
        tools=[{"functionDeclarations": [F, G, H]}], toolConfig={"functionCallingConfig": calling} if calling else {}
    )
    assert [tool.name for tool in request.tools] == list(names)
    assert {tool.is_strict for tool in request.tools} == {strict}
    assert request.tool_choice == choice


def test_googles_schema_becomes_a_json_schema():
    schema = {
        "type": "OBJECT",
        "title": "T",
        "required": ["b"],
        "propertyOrdering": ["b", "a_b"],
        "properties": {
            "a_b": {"type": "ARRAY", "items": {"type": "STRING", "enum": ["x"], "nullable": True}, "min_items": "2"},
            "b": {
                "anyOf": [{"type": "INTEGER", "format": "int32", "minimum": 0}, {"type": "STRING"}],
                "nullable": True,
            },
            "c": {"type": "number", "nullable": True, "example": 3, "maximum": 4.5},
        },
        "additionalProperties": False,
    }
    found = declared(schema)
    assert found == {
        "type": "object",
        "title": "T",
        "required": ["b"],
        "properties": {
            "b": {
                "anyOf": [{"type": "integer", "format": "int32", "minimum": 0}, {"type": "string"}, {"type": "null"}]
            },
            "a_b": {"type": "array", "items": {"type": ["string", "null"], "enum": ["x", None]}, "minItems": 2},
            "c": {"type": ["number", "null"], "examples": [3], "maximum": 4.5},
        },
        "additionalProperties": False,
    }
    assert list(found["properties"]) == ["b", "a_b", "c"]


def test_schemas_of_answers_are_translated():
    google = configured(responseMimeType="application/json", responseSchema={"type": "STRING"})
    assert (google.response_schema, google.is_json) == ({"type": "string"}, False)
    plain = configured(responseMimeType="application/json", responseJsonSchema={"$defs": {}, "type": "string"})
    assert plain.response_schema == {"$defs": {}, "type": "string"}


def model(*parts: Any) -> list[Any]:
    return [{"role": "model", "parts": list(parts)}]


def users(*parts: Any) -> list[Any]:
    return [{"role": "user", "parts": list(parts)}]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"contents": []}, "contents: expected at least one turn"),
        ({"contents": "x"}, "contents: expected a list"),
        ({"contents": [3]}, "contents[0]: expected an object"),
        ({"contents": [{"role": "system", "parts": []}]}, "contents[0].role: expected one of user, model"),
        ({"contents": users({"text": 3})}, "contents[0].parts[0].text: expected a text"),
        ({"contents": users({})}, "contents[0].parts[0]: expected one of text, "),
        ({"contents": users({"text": "a", "fileData": {}})}, "contents[0].parts[0]: expected one of text, "),
        ({"contents": users({"executable_code": {}})}, "contents[0].parts[0].executableCode: cannot be translated"),
        (
            {"contents": users({"text": "a", "video_metadata": {}})},
            "contents[0].parts[0].videoMetadata: cannot be translated",
        ),
        ({"contents": users({"text": "a", "thought": True})}, "contents[0].parts[0].thought: expected a text"),
        (
            {"contents": users({"inlineData": {"mimeType": "video/mp4", "data": "aGk="}})},
            "contents[0].parts[0].inlineData.mimeType: video cannot be translated",
        ),
        (
            {"contents": users({"inlineData": {"mimeType": "image/png", "data": "a?"}})},
            "contents[0].parts[0].inlineData.data: expected base64",
        ),
        (
            {"contents": users({"inlineData": {"mimeType": "image/png", "data": "aGk=aGk="}})},
            "contents[0].parts[0].inlineData.data: expected base64",
        ),
        (
            {"contents": users({"fileData": {"fileUri": "gs://a/b", "mimeType": "image/png"}})},
            "contents[0].parts[0].fileData.fileUri: a file kept at Google",
        ),
        (
            {"contents": users({"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/x"}})},
            "contents[0].parts[0].fileData.fileUri: a file kept at Google",
        ),
        (
            {"contents": users({"fileData": {"fileUri": "https://example.com/x"}})},
            "contents[0].parts[0].fileData.mimeType: is required",
        ),
        (
            {"contents": users({"functionCall": {"name": "f"}})},
            "contents[0].parts[0].functionCall: expected in a turn of the model",
        ),
        (
            {"contents": model({"functionResponse": {"name": "f"}})},
            "contents[0].parts[0].functionResponse: expected in a turn of the user",
        ),
        (
            {"contents": model({"functionCall": {"name": "f", "args": []}})},
            "contents[0].parts[0].functionCall.args: expected an object",
        ),
        (
            {"contents": users({"functionResponse": {"id": "c", "name": "f", "response": {}}})},
            "contents[0].parts[0].functionResponse: no call comes before it",
        ),
        (
            {"contents": users({"functionResponse": {"name": "f", "response": {}, "willContinue": True}})},
            "contents[0].parts[0].functionResponse.willContinue: cannot be translated",
        ),
        ({"cachedContent": "cachedContents/x"}, "cachedContent: cannot be translated"),
        ({"labels": {}}, "labels: cannot be translated"),
        ({"systemInstruction": "x"}, "systemInstruction: expected an object"),
        (
            {"systemInstruction": {"parts": [{"inlineData": {}}]}},
            "systemInstruction.parts[0].inlineData: cannot be translated",
        ),
        ({"tools": [{"googleSearch": {}}]}, "tools[0].googleSearch: cannot be translated"),
        ({"tools": [{"url_context": {}}]}, "tools[0].urlContext: cannot be translated"),
        ({"tools": [{"functionDeclarations": [{}]}]}, "tools[0].functionDeclarations[0].name: is required"),
        (
            {"tools": [{"functionDeclarations": [{"name": "f", "behavior": "NON_BLOCKING"}]}]},
            "tools[0].functionDeclarations[0].behavior: cannot be translated",
        ),
        (
            {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {}, "parametersJsonSchema": {}}]}]},
            "tools[0].functionDeclarations[0].parametersJsonSchema: expected either this or parameters",
        ),
        (
            {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "object", "$ref": "x"}}]}]},
            "tools[0].functionDeclarations[0].parameters.$ref: references are for a JSON Schema",
        ),
        (
            {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"properties": {"a": {"type": "X"}}}}]}]},
            "tools[0].functionDeclarations[0].parameters.properties.a.type: expected one of STRING",
        ),
        (
            {"toolConfig": {"retrievalConfig": {}}},
            "toolConfig.retrievalConfig: cannot be translated",
        ),
        (
            {"toolConfig": {"functionCallingConfig": {"mode": "AUTO", "allowedFunctionNames": ["f"]}}},
            "toolConfig.functionCallingConfig.allowedFunctionNames: expected with mode ANY",
        ),
        (
            {"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}}},
            "toolConfig.functionCallingConfig.allowedFunctionNames: a name in it is none of the tools'",
        ),
        ({"safetySettings": [{"threshold": "BLOCK_LOW_AND_ABOVE"}]}, "safetySettings[0].threshold: the model's"),
        ({"generationConfig": {"candidateCount": 2}}, "generationConfig.candidateCount: "),
        ({"generationConfig": {"speechConfig": {}}}, "generationConfig.speechConfig: cannot be translated"),
        ({"generationConfig": {"responseLogprobs": True}}, "generationConfig.responseLogprobs: cannot be translated"),
        ({"generationConfig": {"responseModalities": ["IMAGE"]}}, "generationConfig.responseModalities: "),
        ({"generationConfig": {"responseMimeType": "text/x.enum"}}, "generationConfig.responseMimeType: "),
        ({"generationConfig": {"responseSchema": {}}}, "generationConfig.responseSchema: expected responseMimeType"),
        (
            {
                "generationConfig": {
                    "responseMimeType": "application/json",
                    "responseSchema": {},
                    "responseJsonSchema": {},
                }
            },
            "generationConfig.responseJsonSchema: expected either this or responseSchema",
        ),
        ({"generationConfig": {"temperature": "hot"}}, "generationConfig.temperature: expected a number"),
        ({"generationConfig": {"stopSequences": "x"}}, "generationConfig.stopSequences: expected a list of texts"),
        (
            {"generationConfig": {"thinkingConfig": {"thinkingBudget": 1, "thinkingLevel": "LOW"}}},
            "generationConfig.thinkingConfig.thinkingLevel: expected either this or thinkingBudget",
        ),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(body, message):
    with pytest.raises(InvalidRequest) as refused:
        API.translated(read({"contents": HELLO, **body}), 9)
    assert refused.value.message.startswith(message)


def test_recorded_requests_are_translated_or_refused_by_name():
    file = RECORDED / "gemini-generate.jsonl"
    if not file.is_file():
        pytest.skip(f"the recorded provider traffic is not here: {file}")
    done, refused = 0, set()
    for line in file.read_text(encoding="utf-8").splitlines():
        sent = json.loads(line)["request"]
        if not isinstance(sent, dict):
            continue
        try:
            request = API.translated(read(sent), 9)
            assert len(request.messages) > 0
            done += 1
        except InvalidRequest as error:
            refused.add(error.message.split(":")[0])
    assert done > 100
    # Each of these is Google's alone.
    google = ("googleSearch", "codeExecution", "urlContext", "fileSearch", "fileUri", "includeServerSideTool")
    own = ("executableCode", "toolCall", "mimeType", "responseModalities")
    assert all(any(word in name for word in (*google, *own)) for name in refused), refused


FIELDS = (
    "contents systemInstruction parts text role inlineData mimeType data fileData fileUri functionCall name args id "
    "functionResponse response thought thoughtSignature mediaResolution level tools functionDeclarations parameters "
    "parametersJsonSchema toolConfig functionCallingConfig mode allowedFunctionNames generationConfig maxOutputTokens "
    "candidateCount stopSequences temperature topK seed responseMimeType responseSchema thinkingConfig thinkingBudget "
    "thinkingLevel safetySettings threshold type properties items required enum nullable anyOf minItems serviceTier"
)
WORDS = st.sampled_from(
    ["user", "model", "OBJECT", "ANY", "application/json", "image/png", "LOW", "aGk=", "\ud800", ""]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | WORDS
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS.split()), inner, max_size=5),
    max_leaves=25,
)
PARTS = st.dictionaries(st.sampled_from(FIELDS.split()[3:18]), DOCUMENTS, max_size=2)
CONTENTS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "model"]), "parts": st.lists(PARTS, max_size=3)}),
    max_size=3,
)
BODIES = st.dictionaries(st.sampled_from(FIELDS.split()), DOCUMENTS, max_size=4)


@given(BODIES, CONTENTS | DOCUMENTS)
@settings(max_examples=120, deadline=None)
def test_whatever_comes_only_refusals_come_out(body, contents):
    raw = json.dumps({"contents": contents, **body}).encode()
    with suppress(InvalidRequest):
        asked = API.read(raw, "m")
        msgspec.json.encode(API.limited(asked, 1))
        API.translated(asked, 1)
