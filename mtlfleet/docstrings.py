"""The fixed headings of a method's docstring, read from its text: for the contract suite and the catalogue alike."""

from __future__ import annotations

HEADINGS = ("Math", "Shapes", "Source", "Departures", "Properties")


def sections(docstring: str) -> dict[str, str]:
    """Each heading that begins a line, with its text up to an empty line, unwrapped.

    >>> sections('''One.
    ...
    ... Source      Somebody,
    ...             2020.
    ... ''')
    {'Source': 'Somebody, 2020.'}
    """
    found: dict[str, str] = {}
    current = ""
    for line in docstring.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word in HEADINGS and word not in found:
            current, found[word] = word, rest.strip()
        elif not line.strip():
            current = ""
        elif current:
            found[current] = f"{found[current]} {line.strip()}"
    return found
