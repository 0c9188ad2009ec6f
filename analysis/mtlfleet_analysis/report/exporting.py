"""A report's figures and tables as files for papers: SVG, PNG and PDF; CSV, Markdown and LaTeX."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mtlfleet.store.formats import write
from mtlfleet_analysis.leaderboard import Leaderboard, leaderboard
from mtlfleet_analysis.report import Made
from mtlfleet_analysis.report.drawing import Figure
from mtlfleet_analysis.report.svg import clean, clean_values, drawing
from mtlfleet_analysis.sentences import correction, number, signed

FIGURES = ("svg", "png", "pdf", "json")
TABLES = {"csv": "csv", "markdown": "md", "latex": "tex"}
FORMATS = (*FIGURES, *TABLES)
SCALE = 2.0  # pixels of a PNG per point
_REFERENCE = re.compile(rb"\b(\d+) 0 R\b")
_NAMED = re.compile(rb"(?:\n */\w+ \d+ 0 R){2,}")  # lines of a dictionary that each name an object
_ACTIVE = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "−": "$-$", "\n": " ",
}  # fmt: skip


def export(made: Made, folder: Path, formats: Sequence[str] = FORMATS) -> tuple[Path, ...]:
    """Write every figure and table in ``formats`` into ``folder``; gives the paths. The same report, the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in formats:
        if kind in FIGURES:
            written += [_write(folder / f"{f.name}.{kind}", _drawn(f, kind)) for f in made.figures]
    rows = {"claims": claim_rows(made), "leaderboard": board_rows(made)}
    for kind, suffix in TABLES.items():
        if kind in formats:
            for name, table in rows.items():
                path = folder / f"{name}.{suffix}"
                written.append(_write(path, latex(made, name).encode() if kind == "latex" else _table(kind, table)))
    return tuple(written)


def _write(path: Path, content: bytes) -> Path:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
    return path


def _drawn(figure: Figure, kind: str) -> bytes:
    import vl_convert

    if kind == "json":
        return (json.dumps(clean_values(figure.to_dict()), ensure_ascii=False, indent=1) + "\n").encode()
    svg = drawing(json.dumps(clean_values(figure.spec)))
    if kind == "svg":
        return svg.encode()
    if kind == "pdf":
        return _ordered(bytes(vl_convert.svg_to_pdf(svg)))
    return bytes(vl_convert.svg_to_png(svg, scale=SCALE))


def _ordered(pdf: bytes) -> bytes:
    """The same PDF with its objects in the order in which they are reached from the root.

    Its writer leaves resources, and the fonts they name, in the order of a hash table: names are sorted, objects
    numbered anew and the table of offsets written again. Contents of streams are not touched.
    """
    start = int(re.findall(rb"startxref\s+(\d+)", pdf)[-1])
    trailer = pdf[pdf.index(b"trailer", start) :]
    at = sorted(int(x) for x in re.findall(rb"(\d{10}) \d{5} n", pdf[start:]))
    parts: dict[bytes, tuple[bytes, bytes]] = {}  # number -> what names other objects, and the stream behind it
    for begin, end in pairwise([*at, start]):
        number, rest = pdf[begin:end].split(b" ", 1)
        cut = rest.find(b"stream\n")
        head, body = (rest, b"") if cut < 0 else (rest[:cut], rest[cut:])
        parts[number] = _NAMED.sub(lambda m: b"\n" + b"\n".join(sorted(m[0][1:].split(b"\n"))), head), body
    order: dict[bytes, bytes] = {}
    waiting = _REFERENCE.findall(trailer)[::-1]
    while waiting:
        if (number := waiting.pop()) not in order:
            order[number] = str(len(order) + 1).encode()
            waiting += _REFERENCE.findall(parts[number][0])[::-1]

    def renumbered(text: bytes) -> bytes:
        return _REFERENCE.sub(lambda m: order[m[1]] + b" 0 R", text)

    out, offsets = pdf[: at[0]], []
    for number, new in order.items():
        offsets.append(len(out))
        out += new + b" " + renumbered(parts[number][0]) + parts[number][1]
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(order) + 1
    head = renumbered(re.sub(rb"/Size \d+", b"/Size %d" % size, trailer))
    head = re.sub(rb"startxref\s+\d+", b"startxref\n%d" % len(out), head)
    return out + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + head


def _table(kind: str, rows: Sequence[dict[str, Any]]) -> bytes:
    import io

    import pyarrow as pa

    out = io.BytesIO()
    write(kind, pa.Table.from_pylist(list(rows)).to_reader(), out)
    return out.getvalue()


def claim_rows(made: Made) -> list[dict[str, Any]]:
    """One row a claim, in full precision."""
    return [
        {
            "claim": v.claim_id,
            "verdict": v.verdict,
            "label": v.label,
            "fragile": v.fragile,
            "effect": v.effect,
            "ci_low": v.ci_low,
            "ci_high": v.ci_high,
            "unit": v.unit,
            "p": v.p_value,
            "p_adjusted": v.p_adjusted,
            "pairs": v.n_pairs,
            "datasets": v.n_datasets,
            "power": v.power,
            "guards": "; ".join(v.guards),
            "sentence": v.sentence,
            "sha256": v.sha256,
        }
        for v in made.verdicts
    ]


def board_rows(made: Made) -> list[dict[str, Any]]:
    """One row a method: mean improvement with its interval, then each place; in full precision."""
    board = leaderboard(made.evidence)
    return [
        {
            "method": e.method,
            "improvement": e.mean,
            "ci_low": e.low,
            "ci_high": e.high,
            "not_separated_from_best": None if e.separated is None else not e.separated,
            "mean_rank": e.mean_rank,
            "runs": e.runs,
            "failures": e.failures,
            "tuning_runs": e.budget.tuning_trials,
            **{f"{d} {a}": e.places.get((d, a)) for d, a in board.places},
        }
        for e in board.entries
    ]


def latex(made: Made, name: str) -> str:
    """A booktabs table with the caption that the numbers need."""
    if name == "claims":
        heads = ["claim", "verdict", "effect", "95\\,\\% interval", "$p$", "pairs"]
        rows = [
            [
                _tex(v.claim_id),
                _tex(v.title) + (", fragile" if v.fragile else ""),
                _tex(signed(v.effect)) if v.effect is not None else "--",
                _tex(f"[{number(v.ci_low)}, {number(v.ci_high)}]") if v.ci_low is not None else "--",
                _tex(number(v.p_adjusted)) if v.p_adjusted is not None else "--",
                str(v.n_pairs),
            ]
            for v in made.verdicts
        ]
        hashes = ", ".join(f"{_tex(v.claim_id)} {v.sha256[:8]}" for v in made.verdicts)
        caption = (
            "Verdicts on the claims. Effects are improvements over the baseline; $p$ is one-sided, corrected within "
            f"the family ({', '.join(sorted({correction(v) for v in made.verdicts}))}). Hashes: {hashes}."
        )
        return _booktabs(heads, rows, caption)
    return _board_latex(made, leaderboard(made.evidence))


def _board_latex(made: Made, board: Leaderboard) -> str:
    rows = []
    for e in board.entries:
        known = e.low is not None and e.high is not None and math.isfinite(e.low)
        half = f" {{\\scriptsize $\\pm$ {number((e.high - e.low) / 2)}}}" if known else ""  # type: ignore[operator]
        mean = "--" if e.mean is None else _tex(signed(e.mean))
        mean = f"\\textbf{{{mean}}}" if e.separated is False else mean
        dagger = f"$^\\dagger${e.failures}" if e.failures else ""
        places = [_tex(signed(e.places[p])) if p in e.places else "--" for p in board.places]
        rows.append([_tex(made.evidence.label(e.method)), mean + half + dagger, *places])
    heads = ["method", "improvement $\\uparrow$", *(_tex(f"{d} {a}") + " $\\uparrow$" for d, a in board.places)]
    study = made.evidence
    caption = (
        f"Improvement on single-task learning, percentage points, mean over {len(board.places)} places and "
        f"{len(study.seeds)} seeds with half the width of its 95\\,\\% interval. Bold: not separated from the best by "
        "a paired sign-flip test (Holm, 0.05). $\\dagger$: failed runs, scored worst. "
        f"Study {_tex(study.study)}, hash {study.sha256[:12]}."
    )
    return _booktabs(heads, rows, caption)


def _booktabs(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    lines = [
        "\\begin{table}", "\\centering", f"\\caption{{{caption}}}", f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        "\\toprule", " & ".join(heads) + " \\\\", "\\midrule", *(" & ".join(row) + " \\\\" for row in rows),
        "\\bottomrule", "\\end{tabular}", "\\end{table}", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _tex(text: str) -> str:
    return "".join(_ACTIVE.get(c, c) for c in clean(text, 300))
