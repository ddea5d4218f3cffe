import pytest


@pytest.fixture(autouse=True)
def _on_each_engine(on_each_engine):
    """All these tests run on each engine."""
