"""Markdown and HTML to plain text, line by line.

What a reader would see is kept: a heading's words, a link's text, code as it stands, a list's items with a plain dash.
"""

import re
from collections.abc import Callable

_FENCE = re.compile(r"[ ]{0,3}(?:```|~~~)")
_RULE = re.compile(r"[ ]{0,3}(?:(?:-[ ]*){3,}|(?:\*[ ]*){3,}|(?:_[ ]*){3,}|={3,})\Z")
_TABLE_RULE = re.compile(r"[ ]*\|?[ ]*:?-+:?[ ]*(?:\|[ ]*:?-+:?[ ]*)+\|?[ ]*\Z")
_HEADING = re.compile(r"[ ]{0,3}#{1,6}[ ]+")
_TRAILING = re.compile(r"[ ]+#+[ ]*\Z")
_QUOTE = re.compile(r"[ ]{0,3}(?:>[ ]?)+")
_BULLET = re.compile(r"([ ]{0,12})[*+-][ ]+(?:\[[ xX]\][ ]+)?")
_IMAGE = re.compile(r"!\[([^\[\]]{0,500})\]\([^()\s]{0,2000}(?:[ ]\"[^\"]{0,200}\")?\)")
_LINK = re.compile(r"\[([^\[\]]{1,500})\]\([^()\s]{0,2000}(?:[ ]\"[^\"]{0,200}\")?\)")
_AUTOLINK = re.compile(r"<((?:https?://|mailto:)[^<>\s]{1,2000})>")
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9-]{0,30}(?:[ \t/][^<>]{0,1000})?>|<!--[^<>]{0,1000}-->")
_CODE = re.compile(r"(`{1,3})([^`]{1,1000})\1")
_MARKS = re.compile(r"\*+|_+|~~")
_WORD = re.compile(r"\w")
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+.!|>~-])")
LONGEST_LINE = 2_000
"""Characters; a longer line is taken in pieces, cut at a space where it has one."""


class MarkupFilter:
    """Takes markup out of a text that comes piece by piece; each line is held back until it is whole.

    Args:
        found: told of each line that had markup.
    """

    def __init__(self, found: Callable[[], None]) -> None:
        self._found = found
        self._held = ""
        self._is_code = False
        self._goes_on = False

    def feed(self, text: str) -> str:
        held, at = self._held + text, 0
        out: list[str] = []
        while True:
            longest = at + LONGEST_LINE
            end = held.find("\n", at, longest)
            if end >= 0:
                out.append(self._ended(held[at:end]))
                at = end + 1
                continue
            if len(held) < longest:
                break
            cut = held.rfind(" ", at + 1, longest) + 1 or longest
            out.append(self._stripped(held[at:cut]))
            at = cut
            self._goes_on = True
        self._held = held[at:]
        return "".join(out)

    def end(self) -> str:
        line, self._held = self._held, ""
        return self._stripped(line)

    def whole(self, text: str) -> str:
        return self.feed(text) + self.end()

    def _ended(self, line: str) -> str:
        stripped = self._stripped(line)
        is_gone = not stripped and bool(line.strip()) and not self._goes_on
        self._goes_on = False
        return "" if is_gone else stripped + "\n"

    def _stripped(self, line: str) -> str:
        stripped = self._plain(line) if line else line
        if stripped != line:
            self._found()
        return stripped

    def _plain(self, line: str) -> str:
        if not self._goes_on:
            if _FENCE.match(line):
                self._is_code = not self._is_code
                return ""
            if self._is_code:
                return line
            if _RULE.match(line) or _TABLE_RULE.match(line):
                return ""
            heading = _HEADING.match(line)
            if heading:
                line = _TRAILING.sub("", line[heading.end() :])
            quote = _QUOTE.match(line)
            if quote:
                line = line[quote.end() :]
            bullet = _BULLET.match(line)
            if bullet:
                line = f"{bullet[1]}- {line[bullet.end() :]}"
        elif self._is_code:
            return line
        return _inline(line)


def _without_emphasis(line: str) -> str:
    """Take pairs of marks off, as CommonMark finds them: by one pass with a stack for each kind."""
    opened: dict[str, list[list[int]]] = {}
    dropped: list[tuple[int, int]] = []
    for match in _MARKS.finditer(line):
        start, end = match.span()
        char = line[start]
        left, right = line[start - 1 : start], line[end : end + 1]
        may_open, may_close = bool(right.strip()), bool(left.strip())
        if char == "_" or (char == "*" and end - start == 1):
            # Within a word they are letters, or times.
            may_open = may_open and not _WORD.match(left)
            may_close = may_close and not _WORD.match(right)
        stack = opened.setdefault(char, [])
        while may_close and stack and start < end:
            opener = stack[-1]
            size = min(end - start, opener[1] - opener[0])
            dropped += ((opener[1] - size, opener[1]), (start, start + size))
            opener[1] -= size
            start += size
            if opener[0] == opener[1]:
                stack.pop()
        if may_open and start < end:
            stack.append([start, end])
    pieces: list[str] = []
    at = 0
    for start, end in sorted(dropped):
        pieces.append(line[at:start])
        at = end
    return "".join((*pieces, line[at:]))


def _inline(line: str) -> str:
    if not any(mark in line for mark in "*_`[<~\\|"):
        return line
    kept: list[str] = []

    def keep(text: str) -> str:
        kept.append(text)
        return f"\x00{len(kept) - 1}\x00"

    # What stands as it is written: code, and what is escaped.
    line = _CODE.sub(lambda match: keep(match[2]), line.replace("\x00", ""))
    line = _ESCAPE.sub(lambda match: keep(match[1]), line)
    line = _LINK.sub(r"\1", _IMAGE.sub(r"\1", line))
    line = _TAG.sub("", _AUTOLINK.sub(r"\1", line))
    line = _without_emphasis(line)
    if line.lstrip().startswith("|") and line.rstrip().endswith("|"):
        line = "\t".join(cell.strip() for cell in line.strip().strip("|").split("|"))
    return re.sub("\x00(\\d+)\x00", lambda match: kept[int(match[1])], line)
