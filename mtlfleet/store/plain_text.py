"""Text that came from a trial, a name or a log, made safe to show: a terminal must not obey it."""

from __future__ import annotations

import re
import unicodedata

_SEQUENCES = re.compile(
    r"\x1b\][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC: titles, links, the clipboard
    r"|\x1b[PX^_][^\x1b\x9c]*(?:\x1b\\|\x9c)?"  # DCS, SOS, PM, APC
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor
    r"|\x1b[ -/]*[0-~]?"
)


def plain(text: str, *, keep_lines: bool = False) -> str:
    r"""``text`` without escape sequences, control and bidirectional-override characters; newlines become spaces
    unless kept.

    >>> plain("\x1b[31mred\x1b[0m \x1b]52;c;aGk=\x07done")
    'red done'
    """
    stripped = _SEQUENCES.sub("", text)
    kept = "\n\t" if keep_lines else ""
    blanks = "" if keep_lines else "\n\r\t"
    out = []
    for character in stripped:
        if character in kept:
            out.append(character)
        elif character in blanks:
            out.append(" ")
        elif unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
            out.append(character)
    return "".join(out)
