"""Keeps files and functions small enough to be understood at first sight; run by ``make check``."""

import ast
import sys
from pathlib import Path

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60
# A migration is one long list of columns, and is never edited again.
EXEMPT_FUNCTIONS = "storage/migrations/"


def problems(path: Path) -> list[str]:
    """Return what is too long in a file, a sentence each."""
    text = path.read_text()
    lines = text.count("\n")
    found = [f"{path}: {lines} lines, at most {MAX_FILE_LINES}"] if lines > MAX_FILE_LINES else []
    if EXEMPT_FUNCTIONS in str(path):
        return found
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            holds_class = any(isinstance(child, ast.ClassDef) for child in node.body)
            if length > MAX_FUNCTION_LINES and not holds_class:
                found.append(f"{path}:{node.lineno} {node.name}: {length} lines, at most {MAX_FUNCTION_LINES}")
    return found


def main() -> int:
    """Print every problem; return 1 if there is one."""
    files = sorted(Path("src").rglob("*.py")) + sorted(Path("bench").rglob("*.py"))
    found = [problem for path in files for problem in problems(path)]
    nameless = [path for path in files if path.stem in {"utils", "util", "helpers", "misc"}]
    found += [f"{path}: a name that says nothing; name the file after what is in it" for path in nameless]
    print("\n".join(found) or f"{len(files)} files, none too long")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
