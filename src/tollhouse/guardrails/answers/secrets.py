"""Secrets in a text that comes piece by piece: known forms of API keys, JWTs, private keys, and Tollhouse's own keys.

A form is recognised by its beginning, as short as it can be told. What belongs to it is then dropped for as long as it
goes on, so that no more than such a beginning is ever held back.
"""

import re
from collections.abc import Callable

import msgspec

MARK = "[SECRET]"
"""What stands in an answer in the place of a secret; it cannot be restored."""

_WORD = "[A-Za-z0-9_-]"
_ALNUM = "[A-Za-z0-9]"
_UPPER = "[A-Z0-9]"
# A private key in PEM may be that long; what follows for longer than this without its end is an answer again.
_LONGEST_PEM_CHARS = 16_384
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{1,60}-----")
_PEM_END_CHARS = 80
_GOES_ON = {"jwt": re.compile(r"[A-Za-z0-9_.=-]*"), "private_key": re.compile("")}
_REST_OF_KEY = re.compile(r"[A-Za-z0-9_-]*")


class _Atom(msgspec.Struct, frozen=True):
    """A run of ``least`` to ``most`` characters of one kind, or a literal."""

    chars: str
    least: int
    most: int


def _literal(text: str) -> list[_Atom]:
    return [_Atom(re.escape(char), 1, 1) for char in text]


def _key(prefix: str, chars: str, least: int) -> list[_Atom]:
    return [*_literal(prefix), _Atom(chars, least, least)]


_FORMS: list[tuple[str, list[_Atom]]] = [
    ("private_key", [*_literal("-----BEGIN "), _Atom("[A-Z0-9 ]", 0, 40), *_literal("PRIVATE KEY")]),
    ("jwt", [*_literal("eyJ"), _Atom(_WORD, 10, 1000), *_literal(".eyJ"), _Atom(_WORD, 10, 10)]),
    # The prefix of Tollhouse's own keys, with 256 random bits in base64.
    ("tollhouse_key", _key("th_", _WORD, 43)),
    *(
        ("api_key", form)
        for form in (
            *(_key(f"sk-{kind}-", _WORD, 20) for kind in ("ant", "proj", "svcacct", "admin", "or", "None")),
            _key("sk-", _ALNUM, 32),
            _key("AIza", _WORD, 35),
            _key("AKIA", _UPPER, 16),
            _key("ASIA", _UPPER, 16),
            *(_key(f"gh{kind}_", _ALNUM, 36) for kind in "pousr"),
            _key("github_pat_", "[A-Za-z0-9_]", 22),
            _key("glpat-", _WORD, 20),
            *(_key(f"xox{kind}-", "[A-Za-z0-9-]", 20) for kind in "abeoprs"),
            *(_key(f"{kind}_{mode}_", _ALNUM, 16) for kind in ("sk", "rk", "whsec") for mode in ("live", "test")),
            _key("hf_", _ALNUM, 34),
            _key("npm_", _ALNUM, 36),
            _key("pypi-", _WORD, 50),
            _key("SG.", _WORD, 20),
            _key("gsk_", _ALNUM, 40),
            _key("xai-", _ALNUM, 40),
            _key("dop_v1_", "[0-9a-f]", 64),
            _key("shpat_", "[0-9a-fA-F]", 32),
        )
    ),
]


def _whole(atoms: list[_Atom]) -> str:
    return "".join(atom.chars + _times(atom.least, atom.most) for atom in atoms)


def _times(least: int, most: int) -> str:
    return "" if least == most == 1 else f"{{{least},{most}}}"


def _begun(atoms: list[_Atom]) -> str:
    """Return what fits every beginning of a form that is not whole."""
    atom, rest = atoms[0], atoms[1:]
    started = f"{atom.chars}{{1,{atom.least - 1}}}" if atom.least > 1 else ""
    if not rest:
        return started
    further = _begun(rest)
    full = atom.chars + _times(atom.least, atom.most) + (f"(?:{further})?" if further else "")
    return f"(?:{full}|{started})" if started else full


# A key within a longer word is none: "task-…", "risk-…".
_START = r"(?<![A-Za-z0-9])"
_FOUND = re.compile("|".join(f"{_START}(?P<f{i}>{_whole(atoms)})" for i, (_, atoms) in enumerate(_FORMS)))
_BEGUN = re.compile(f"{_START}(?:{'|'.join(_begun(atoms) for _, atoms in _FORMS)})\\Z")
_LONGEST_BEGUN = 1024


def _prefix(atoms: list[_Atom]) -> str:
    """Return the letters that a form begins with."""
    letters = ""
    for atom in atoms:
        if atom.most > 1 or atom.chars.startswith("["):
            break
        letters += atom.chars.removeprefix("\\")
    return letters


_PREFIXES = tuple(sorted({_prefix(atoms)[:3] for _, atoms in _FORMS}))


class SecretFilter:
    """Takes secrets out of a text.

    Args:
        found: told the kind of each.
        is_json: the text is JSON, in which a secret ends with its string.
    """

    def __init__(self, found: Callable[[str], None], *, is_json: bool = False) -> None:
        self._found = found
        self._is_json = is_json
        # What was not passed on, after the last character that was: a key's beginning is told by what it stands after.
        self._held = ""
        self._at = 0
        self._dropping: str | None = None
        self._dropped = 0

    def feed(self, text: str) -> str:
        return self._run(text, is_end=False)

    def end(self) -> str:
        return self._run("", is_end=True)

    def whole(self, text: str) -> str:
        return self._run(text, is_end=True)

    def _run(self, text: str, *, is_end: bool) -> str:
        held, at = self._held + text, self._at
        out: list[str] = []
        # Few texts have any of the beginnings, and to look for them costs a hundredth.
        may_match = any(prefix in held for prefix in _PREFIXES)
        while True:
            if self._dropping is not None:
                at = self._drop(held, at)
                if self._dropping is not None:
                    # Of a private key, its end may have begun.
                    kept = max(at, len(held) - _PEM_END_CHARS) if self._dropping == "private_key" else len(held)
                    self._dropped += kept - at
                    self._keep(held, kept)
                    return "".join(out)
            match = _FOUND.search(held, at) if may_match else None
            begun = None if is_end else _BEGUN.search(held, max(at, len(held) - _LONGEST_BEGUN))
            if match is None or (begun is not None and begun.start() < match.start()):
                cut = len(held) if begun is None else begun.start()
                out.append(held[at:cut])
                self._keep(held, cut)
                return "".join(out)
            out += (held[at : match.start()], MARK)
            at = match.end()
            assert match.lastgroup is not None, "each form is a group"
            self._dropping = _FORMS[int(match.lastgroup[1:])][0]
            self._dropped = 0
            self._found(self._dropping)

    def _keep(self, held: str, cut: int) -> None:
        """Keep what comes after a place, and the character before it."""
        before = max(0, cut - 1)
        self._held, self._at = held[before:], cut - before

    def _drop(self, held: str, at: int) -> int:
        """Return where the rest of a secret ends; it goes on if ``_dropping`` stays."""
        assert self._dropping is not None, "something is being dropped"
        if self._dropping != "private_key":
            rest = _GOES_ON.get(self._dropping, _REST_OF_KEY).match(held, at)
            assert rest is not None, "it fits nothing as well"
            if rest.end() < len(held):
                self._dropping = None
            return rest.end()
        limit = at + _LONGEST_PEM_CHARS - self._dropped
        end = _PEM_END.search(held, at, limit)
        quote = held.find('"', at, limit) if self._is_json else -1
        if quote >= 0 and (end is None or quote < end.start()):
            self._dropping = None
            return quote
        if end is not None or len(held) >= limit:
            self._dropping = None
            return limit if end is None else end.end()
        return at
