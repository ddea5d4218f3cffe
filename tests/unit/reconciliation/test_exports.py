"""Providers' own usage exports, read into disjoint classes; what is wrong with one is told by its place."""

import json

import pytest

from tollhouse.kit.clock import utc_text
from tollhouse.providers.usage import Usage
from tollhouse.reconciliation.exports import read_export

APRIL_FIRST_S = 1_775_001_600
DAY_S = 86_400


def openai_bucket(*results, day=0, **changes):
    start_s = APRIL_FIRST_S + day * DAY_S
    return {"object": "bucket", "start_time": start_s, "end_time": start_s + DAY_S, "results": list(results), **changes}


def openai_result(**changes):
    return {
        "object": "organization.usage.completions.result",
        "model": "gpt-4o-mini-2024-07-18",
        "num_model_requests": 3,
        "input_tokens": 1000,
        "input_cached_tokens": 400,
        "output_tokens": 50,
        "project_id": None,
        **changes,
    }


def page(*buckets):
    return {"object": "page", "data": list(buckets), "has_more": False}


def anthropic_page(*results, day=1):
    bucket = {
        "starting_at": f"2026-04-0{day}T00:00:00Z",
        "ending_at": f"2026-04-0{day + 1}T00:00:00Z",
        "results": list(results),
    }
    return {"data": [bucket], "has_more": False, "next_page": None}


ANTHROPIC_RESULT = {
    "model": "claude-haiku-4-5",
    "uncached_input_tokens": 100,
    "cache_read_input_tokens": 20,
    "cache_creation": {"ephemeral_5m_input_tokens": 7, "ephemeral_1h_input_tokens": 3},
    "output_tokens": 40,
    "server_tool_use": {"web_search_requests": 0},
}


def read(text):
    """Return what was read, in short: model, first day, calls and usage."""
    return [
        (each.model, utc_text(each.start_ms)[:10], each.requests, each.usage)
        for each in read_export(text if isinstance(text, str) else json.dumps(text))
    ]


def refusal(text):
    with pytest.raises(ValueError) as refused:
        read_export(text if isinstance(text, str) else json.dumps(text))
    return str(refused.value)


def test_openais_input_is_split_into_its_classes():
    (found,) = read_export(json.dumps(page(openai_bucket(openai_result(input_cache_write_tokens=100)))))

    assert found.usage == Usage(500, 400, 100, 0, 50, 0)
    assert (found.model, found.requests, found.splits_reasoning) == ("gpt-4o-mini-2024-07-18", 3, False)
    assert (utc_text(found.start_ms), utc_text(found.end_ms)) == (
        "2026-04-01T00:00:00.000Z",
        "2026-04-02T00:00:00.000Z",
    )


@pytest.mark.parametrize("join", [json.dumps, lambda pages: "\n".join(map(json.dumps, pages))])
def test_pages_come_as_a_list_or_one_after_the_other(join):
    pages = [page(openai_bucket(openai_result())), page(openai_bucket(openai_result(model="gpt-5"), day=1))]

    found = read(join(pages))

    used = Usage(600, 400, output_tokens=50)
    assert [each for each in found if each[2]] == [
        ("gpt-4o-mini-2024-07-18", "2026-04-01", 3, used),
        ("gpt-5", "2026-04-02", 3, used),
    ]


def test_a_model_that_a_span_leaves_out_was_not_used_in_it():
    pages = page(openai_bucket(openai_result()), openai_bucket(day=1))

    assert ("gpt-4o-mini-2024-07-18", "2026-04-02", 0, Usage()) in read(pages)
    assert read(page(openai_bucket())) == []


def test_anthropics_report_tells_both_kinds_of_cache_writes_and_no_calls():
    found = read([anthropic_page(ANTHROPIC_RESULT), anthropic_page(day=2)])

    assert found == [
        ("claude-haiku-4-5", "2026-04-01", None, Usage(100, 20, 7, 3, 40)),
        ("claude-haiku-4-5", "2026-04-02", None, Usage()),
    ]


def test_anthropics_report_counts_searches_unless_it_is_older_than_they_are():
    searched = {**ANTHROPIC_RESULT, "server_tool_use": {"web_search_requests": 4, "web_fetch_requests": 1}}
    (found,) = read_export(json.dumps(anthropic_page(searched)))
    assert (found.usage, found.counts_searches) == (Usage(100, 20, 7, 3, 40, web_searches=4), True)
    assert (found.splits_media, found.splits_reasoning) == (False, False)
    del searched["server_tool_use"]
    (found,) = read_export(json.dumps(anthropic_page(searched)))
    assert (found.usage.web_searches, found.counts_searches) == (0, False)


@pytest.mark.parametrize(
    ("columns", "values", "usage", "flags"),
    [
        ("", "", Usage(9, output_tokens=5), (False, False)),
        (",web_searches", ",3", Usage(9, output_tokens=5, web_searches=3), (False, True)),
        (
            ",audio_input_tokens,image_output_tokens",
            ",7,",
            Usage(9, output_tokens=5, audio_input_tokens=7),
            (True, False),
        ),
    ],
)
def test_columns_of_ones_own_tell_whether_sound_and_searches_are_counted(columns, values, usage, flags):
    (found,) = read_export(
        f"start,end,model,input_tokens,output_tokens{columns}\n2026-04-01,2026-04-02,m,9,5{values}\n"
    )
    assert found.usage == usage
    assert (found.splits_media, found.counts_searches) == flags


def test_deepseeks_rows_are_summed_by_day_and_model_over_keys():
    rows = (
        "user_id,utc_date,model,api_key_name,api_key,type,price,amount",
        "u,2026-04-01,deepseek-chat,a,sk-1,input_cache_miss_tokens,0.00000027,100",
        "u,2026-04-01,deepseek-chat,b,sk-2,input_cache_miss_tokens,0.00000027,11",
        "u,2026-04-01,deepseek-chat,a,sk-1,input_cache_hit_tokens,0.00000007,30",
        "u,2026-04-01,deepseek-chat,a,sk-1,output_tokens,0.0000011,9",
        "u,2026-04-01,deepseek-chat,a,sk-1,request_count,,2",
        "u,2026-04-02,deepseek-reasoner,a,sk-1,output_tokens,0.0000011,4",
    )

    assert read("\n".join(rows)) == [
        ("deepseek-chat", "2026-04-01", 2, Usage(111, 30, output_tokens=9)),
        ("deepseek-reasoner", "2026-04-01", 0, Usage()),
        ("deepseek-chat", "2026-04-02", 0, Usage()),
        ("deepseek-reasoner", "2026-04-02", 0, Usage(output_tokens=4)),
    ]


def test_the_documented_columns_are_disjoint_classes():
    text = (
        "\ufeffstart,end,model,requests,input_tokens,cached_input_tokens,cache_write_tokens,cache_write_1h_tokens,"
        "output_tokens,reasoning_tokens\r\n"
        '2026-04-01,2026-04-02,"small, local",4,1,2,3,4,5,6\r\n'
        "\r\n"
        "2026-04-02T00:00:00+02:00,1775253600,small,,10,,,,5.0,\r\n"
    )

    first, second = read_export(text)

    assert (first.model, first.requests, first.usage) == ("small, local", 4, Usage(1, 2, 3, 4, 5, 6))
    assert (second.requests, second.usage, second.splits_reasoning) == (None, Usage(10, output_tokens=5), True)
    assert (utc_text(second.start_ms), utc_text(second.end_ms)) == (
        "2026-04-01T22:00:00.000Z",
        "2026-04-03T22:00:00.000Z",
    )


def test_openais_csv_is_told_by_its_names_of_columns():
    text = (
        "start_time,end_time,project_id,num_model_requests,model,input_tokens,input_cached_tokens,output_tokens\n"
        "1775001600,1775088000,,10,gpt-4o-mini,1000,400,50\n"
    )

    (found,) = read_export(text)

    assert (found.requests, found.usage, found.splits_reasoning) == (10, Usage(600, 400, output_tokens=50), False)


PLAIN = "start,end,model,input_tokens,output_tokens\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"data": [', "line 1: "),
        ("[" * 100_000, "nested too deeply"),
        ([1], "page 1: expected `object`, got `int`"),
        ({"object": "page"}, "page 1: object missing required field `data`"),
        (page({"results": []}), "page 1, data[0]: expected start_time (OpenAI) or starting_at (Anthropic)"),
        (
            page(openai_bucket(openai_result(input_tokens=-1))),
            "page 1, data[0].results[0].input_tokens: expected `int`",
        ),
        (page(openai_bucket(openai_result(input_tokens="7"))), ".results[0].input_tokens: expected `int`, got `str`"),
        (page(openai_bucket(openai_result(input_tokens=7))), "results[0].input_tokens: expected at least its cached"),
        (
            page(openai_bucket(openai_result(model=None))),
            "data[0].results[0].model: is missing; expected an export gro",
        ),
        (page(openai_bucket(end_time=0)), "data[0]: ends before it begins"),
        ([page(openai_bucket()), page(openai_bucket())], "page 2, data[0]: this span was given before"),
        ({"data": [{"starting_at": "2026-04-01T00:00:00", "ending_at": "x", "results": []}]}, "data[0].starting_at: "),
        ("start,end,model\n2026-04-01,2026-04-02,m\n", "line 1: there is no column input_tokens; expected start, end"),
        (PLAIN + "2026-04-01,2026-04-02,m,1\n", "line 2: expected 5 columns, found 4"),
        (PLAIN + "2026-04-01,2026-04-02,m,-1,1\n", "line 2: input_tokens: expected a whole number from 0, found '-1'"),
        (PLAIN + "2026-04-01,2026-04-02,m,1.5,1\n", "line 2: input_tokens: expected a whole number from 0"),
        (PLAIN + "1/4/26,2026-04-02,m,1,1\n", "line 2: start: expected a date, a time with its zone or seconds"),
        (PLAIN + "2026-04-01T00:00,2026-04-02,m,1,1\n", "line 2: start: expected a date, a time with its zone"),
        (PLAIN + "2026-04-02,2026-04-02,m,1,1\n", "line 2: end: expected a time after start"),
        (PLAIN + "2026-04-01,2026-04-02,,1,1\n", "line 2: model: is empty"),
        ("utc_date,model,type,amount\n2026-04-01,m,image_tokens,5\n", "line 2: type: expected one of input_cache_miss"),
        (PLAIN + '"2026', "line 2: cannot be read as CSV"),
    ],
)
def test_what_is_wrong_is_told_by_its_place_and_by_what_was_expected(text, told):
    assert told in refusal(text)


def test_an_empty_file_holds_nothing():
    assert read_export("") == []
