import pytest


@pytest.fixture(autouse=True)
def _on_each_engine(request):
    """Those that open a database run on each engine; the others ask for none."""
    if "books_folder" in request.fixturenames:
        request.getfixturevalue("on_each_engine")


@pytest.fixture
def books_folder(engine, on_each_engine, tmp_path):
    """A folder for the databases of a test that runs on each engine."""
    return tmp_path
