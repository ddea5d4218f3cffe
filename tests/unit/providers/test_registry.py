import pytest

from tollhouse.errors import StartError
from tollhouse.providers.anthropic.adapter import AnthropicAdapter
from tollhouse.providers.conversation import Message, ProviderRequest
from tollhouse.providers.deepseek import DeepSeekAdapter
from tollhouse.providers.gemini.adapter import GeminiAdapter
from tollhouse.providers.openai.adapter import OpenAIAdapter
from tollhouse.providers.registry import DEFAULT_BASE_URLS, adapter_for


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("anthropic", AnthropicAdapter),
        ("openai", OpenAIAdapter),
        ("deepseek", DeepSeekAdapter),
        ("gemini", GeminiAdapter),
    ],
)
def test_every_kind_has_its_adapter(kind, expected):
    adapter = adapter_for(kind, base_url=DEFAULT_BASE_URLS[kind], api_key="k")
    assert type(adapter) is expected
    ask = ProviderRequest(model="m", messages=(Message("user", "x"),), max_tokens=1)
    assert adapter.encode(ask).path.startswith("/")


def test_an_unknown_kind_is_named_with_what_was_expected():
    with pytest.raises(StartError, match="'cohere' is not known; expected one of anthropic, openai, deepseek, gemini"):
        adapter_for("cohere", base_url="https://api.cohere.com", api_key="k")
