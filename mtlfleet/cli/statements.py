"""Cut what somebody types into SQL statements: at semicolons outside of quotes and comments."""

from __future__ import annotations

import re

_PIECES = re.compile(
    r"""(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|--[^\n]*(?:\n|\Z)|/\*.*?\*/)"""
    r"""|(?P<open>['"]|/\*|\$\w*\$)|(?P<end>;)|(?P<other>[^'"$;/-]+|.)""",
    re.DOTALL,
)


def split(text: str) -> tuple[list[str], str]:
    """Whole statements, each without its semicolon, and the unfinished rest.

    >>> split("SELECT ';' -- a; b")
    ([], "SELECT ';' -- a; b")
    >>> split("SELECT 1; SELECT 'a;b'; SEL")
    (['SELECT 1', "SELECT 'a;b'"], 'SEL')
    """
    found: list[str] = []
    start = 0
    for piece in _PIECES.finditer(text):
        if piece["open"]:
            break
        if piece["end"]:
            found.append(text[start : piece.start()].strip())
            start = piece.end()
    rest = text[start:].strip()
    return [statement for statement in found if statement], rest
