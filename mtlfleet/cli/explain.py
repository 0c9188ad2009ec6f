"""What an error code means and how to mend it."""

from __future__ import annotations

import click

from mtlfleet.cli import output
from mtlfleet.errors import UsageError, nearest
from mtlfleet.plan.codes import CODES


@click.command(name="explain")
@click.argument("code", required=False)
@click.option("--json", "json_", is_flag=True, help="One object: mtlfleet/explain/1.")
def command(code: str | None, json_: bool) -> None:
    """What CODE (E104, W501, ...) means, why it is refused and an example of the mend; without CODE, all of them."""
    if code is None:
        if json_:
            listed = [{"code": c, "title": e.title} for c, e in sorted(CODES.items())]
            output.emit(output.as_json("mtlfleet/explain/1", codes=listed))
        else:
            output.emit(output.table(("code", "title"), [(c, e.title) for c, e in sorted(CODES.items())]))
        return
    wanted = code.upper()
    if wanted not in CODES:
        close = nearest(wanted, CODES, cutoff=0.5)
        raise UsageError(
            f"no code `{output.printable(code)}`",
            help=f"did you mean `{close}`?" if close else "mtlfleet explain lists them",
        )
    found = CODES[wanted]
    if json_:
        output.emit(
            output.as_json(
                "mtlfleet/explain/1", code=wanted, title=found.title, explanation=found.text, example=found.example
            )
        )
    else:
        output.emit(f"{wanted}: {found.title}\n\n{found.text}\n\n{_indented(found.example)}")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
