"""Templates: what they make of params, and what is wrong with files that are none."""

import pytest

from tollhouse.errors import InvalidRequest, NotFound, StartError
from tollhouse.jobs import templating
from tollhouse.jobs.templating import load_templates

pytestmark = pytest.mark.engine("sqlite")
SHIPPED = load_templates(None)


@pytest.fixture
def own(tmp_path):
    def write(text, name="own"):
        (tmp_path / f"{name}.toml").write_text(text)
        return load_templates(tmp_path)

    return write


def test_every_shipped_template_makes_prompts():
    assert SHIPPED.names == ["batch-analysis", "document-extraction", "sales-summary", "summary"]
    (prompt,) = SHIPPED.get("sales-summary").prompts({"period": "April", "sales": [{"loaves": 3}]}, 9)
    assert "sales of April" in prompt.user_message
    assert '[{"loaves":3}]' in prompt.user_message
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}
    (prompt,) = SHIPPED.get("document-extraction").prompts({"document": "Total: 3", "schema": schema}, 9)
    assert prompt.response_schema == schema
    prompts = SHIPPED.get("batch-analysis").prompts({"task": "t", "rows": ["a", {"b": 1}]}, 9)
    assert [prompt.user_message for prompt in prompts] == ["Task: t\n\nRow 1:\na", 'Task: t\n\nRow 2:\n{"b":1}']


def test_what_a_batch_costs_grows_with_its_rows_and_not_with_their_square(monkeypatch):
    """It is made in the event loop of the service, where a large one would hold up every call."""
    encode, written = templating._encode, []

    def counted(value):
        written.append(len(encode(value)))
        return encode(value)

    monkeypatch.setattr(templating, "_encode", counted)
    rows = [{"text": "x" * 100} for _ in range(200)]
    assert len(SHIPPED.get("batch-analysis").prompts({"task": "t", "rows": rows}, 200)) == 200
    assert sum(written) <= 2 * len(encode(rows))


@pytest.mark.parametrize(
    ("params", "title", "data"),
    [
        ({"title": "T", "data": {"a": 1}}, "T", '{"a":1}'),
        ({"data": "plain"}, "Summary", "plain"),
        ({"template": "summary", "month": "May", "sold": 3}, "Summary", '{"month":"May","sold":3}'),
    ],
)
def test_the_default_takes_any_data(params, title, data):
    (prompt,) = SHIPPED.get("summary").prompts(params, 9)
    assert prompt.user_message == f"Summarise the following data.\n\nTitle: {title}\n\nData:\n{data}"


def test_what_stands_in_the_data_stays_as_it_is():
    (prompt,) = SHIPPED.get("summary").prompts({"data": "costs $5, ${title}"}, 9)
    assert prompt.user_message.endswith("Data:\ncosts $5, ${title}")


@pytest.mark.parametrize(
    ("template", "params", "told"),
    [
        ("summary", {"title": "x"}, "params.data: is required"),
        ("summary", {"data": 1, "x": 2}, r"params\.'x': unknown for template summary; known are data, title"),
        ("batch-analysis", {"task": "t", "rows": []}, "params.rows: expected a list of 1 to 9 entries"),
        ("batch-analysis", {"task": "t", "rows": list(range(10))}, "expected a list of 1 to 9"),
        ("document-extraction", {"document": "d", "schema": "s"}, "params.schema: expected a JSON Schema"),
    ],
)
def test_params_that_do_not_fit_are_told(template, params, told):
    with pytest.raises(InvalidRequest, match=told):
        SHIPPED.get(template).prompts(params, 9)


def test_an_unknown_template_is_told_with_those_that_there_are():
    with pytest.raises(NotFound, match="there is no template 'poem'; known are batch-analysis"):
        SHIPPED.get("poem")


def test_an_operators_template_joins_the_shipped_ones_or_takes_the_place_of_one(own):
    templates = own('description = "d"\nuser_message = "Price: $$${price}"', "summary")
    assert templates.get("summary").prompts({"price": 3}, 9)[0].user_message == "Price: $3"
    assert "sales-summary" in templates.names


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("description = ", "own.toml: is no template: Invalid value"),
        ('description = "d"', "user_message: is required"),
        ('description = "d"\nuser_message = "u"\noutputs = "json"', "did you mean 'output'?"),
        ('description = "d"\nuser_message = "5 $"', r"a \$ that stands for itself"),
        ('description = "d"\nuser_message = "u"\noutput = "pdf"', "output: expected one of"),
        ('description = "d"\nuser_message = "u"\n[defaults]\nx = 1', "x is named in defaults or rest"),
    ],
)
def test_a_file_that_is_no_template_stops_the_start(own, text, told):
    with pytest.raises(StartError, match=told):
        own(text)


def test_a_folder_that_is_not_there_stops_the_start(tmp_path):
    with pytest.raises(StartError, match="cannot be read"):
        load_templates(tmp_path / "gone")
