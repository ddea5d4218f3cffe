import msgspec
import pytest

from tollhouse.providers.parsing import ABSENT, reports_use


@pytest.mark.parametrize(
    "block", [b"", b"null", b"0", b"0.0", b"{}", b"[]", b'""', b'{"a":0,"b":{"c":[0,null,false]}}']
)
def test_a_block_without_a_value_reports_no_use(block):
    assert not reports_use(msgspec.Raw(block))
    assert not reports_use(ABSENT)


@pytest.mark.parametrize("block", [b"1", b"-1", b'"0"', b"1e-9", b"1e400", b'{"a":0,"b":{"c":[0,7]}}', b"[[[true]]]"])
def test_a_value_anywhere_in_a_block_reports_use(block):
    assert reports_use(msgspec.Raw(block))


@pytest.mark.parametrize("block", [b"[" * 100_000, b'"\xff"', b'{"a":', b"[" * 900 + b"3" + b"]" * 900])
def test_a_block_that_cannot_be_read_may_report_use(block):
    assert reports_use(msgspec.Raw(block))
