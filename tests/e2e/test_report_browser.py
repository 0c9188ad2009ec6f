"""The report in a real browser: nothing is fetched, run or injected; nothing overflows; no figure is empty."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mtlfleet.plan.claims import Baseline, Claim, Estimand
from mtlfleet_analysis.evidence import Evidence, External, Registration, Trace
from mtlfleet_analysis.judging import judge_evidence
from mtlfleet_analysis.report import Made, of_evidence
from mtlfleet_analysis.report import page as report_page
from mtlfleet_analysis.simulation import BEFORE, Design, simulate

PAYLOADS = (
    "</script><img src=x onerror=window.pwned=1>",
    "<svg onload=window.pwned=1><script>window.pwned=1</script></svg>",
    "\"'><iframe src=javascript:window.pwned=1></iframe>",
    "</style><style>*{display:none}</style><base href=//evil.example>",
    "</title><meta http-equiv=refresh content='0;url=http://evil.example'>",
    "]]><!--<a href=javascript:window.pwned=1>x</a>",
    "{{ 7 * 7 }}{% raw %}${window.pwned=1}",
    "javascript:window.pwned=1//\u202eevil\u0007\x1b]52;c;AAAA\x07",
    "datum.x');window.pwned=1;('",
)
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


def browser_path() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.fail("no browser found for the report's tests: install Debian's package `chromium`, or set CHROMIUM")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = browser_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=path, args=list(QUIET))
        yield running
        running.close()


@pytest.fixture(autouse=True)
def _windows(request: pytest.FixtureRequest) -> Iterator[None]:
    """An open page goes on drawing: each test closes its own."""
    yield
    if "browser" in request.fixturenames:
        for context in request.getfixturevalue("browser").contexts:
            context.close()


def claims() -> list[Claim]:
    return [
        Claim(id="up", question="Up?", method="pcgrad", baseline=Baseline(best_of=("ls",)), margin=1.0),
        Claim(id="same", method="mgda", baseline=Baseline(best_of=("ls", "mean")), margin=8.0),
        Claim(
            id="left",
            method="mgda",
            baseline=Baseline(best_of=("ls",)),
            margin=0.01,
            estimand=Estimand(kind="metric", task="left", metric="error"),
            family="second",
        ),
    ]


def design(**given: Any) -> Design:
    effects = {"ls": 0.0, "mean": -0.5, "pcgrad": 3.0, "mgda": 0.1}
    fates = {("mgda", "waves", 2): "diverged", ("mean", "digits", 0): "lost"}
    return Design(**{"effects": effects, "configs": 4, "fates": fates, **given})


def poisoned(payload: str) -> tuple[Evidence, list[Claim]]:
    """A study in which every text a user, a plug-in or an exception can set carries the payload."""

    def bad(name: str) -> str:
        return f"{name}{payload}"

    clean = simulate(design(datasets=("digits",)), 0)
    runs = tuple(
        replace(
            r,
            trial=bad(r.trial),
            method=bad(r.method),
            dataset=bad(r.dataset),
            architecture=bad(r.architecture),
            task="*" if r.task == "*" else bad(r.task),
            reason=bad("died: "),
            label=bad(r.label),
            params=f'{{"{"weight"}": {payload!r}}}' if "'" in payload else r.params,
            values={(s, bad(t), m): v for (s, t, m), v in r.values.items()},
        )
        for r in clean.runs
    )
    asked = [
        replace(
            c,
            id=bad(c.id),
            question=bad("Better?"),
            method=bad(c.method),
            baseline=Baseline(best_of=tuple(map(bad, c.baseline.best_of))),
            parity="waived",
            parity_reason=bad("because"),
            family=bad("f"),
            estimand=replace(c.estimand, task=c.estimand.task and bad(c.estimand.task)),
        )
        for c in claims()
    ]
    evidence = replace(
        clean,
        study=bad("study"),
        title=bad("Title"),
        runs=runs,
        tasks=tuple(replace(t, dataset=bad(t.dataset), task=bad(t.task)) for t in clean.tasks),
        datasets=tuple(map(bad, clean.datasets)),
        architectures=tuple(map(bad, clean.architectures)),
        methods=tuple(map(bad, clean.methods)),
        single_task=tuple(map(bad, clean.single_task)),
        versions={"mtlfleet": bad("1")},
        labels={bad("pcgrad"): bad("Label")},
    )
    everywhere: dict[str, Any] = {"dataset": evidence.datasets[0], "architecture": evidence.architectures[0]}
    traces = tuple(
        Trace(quantity=q, method=bad("ls"), **everywhere, step=s, what=bad("a pair"), low=0.1, middle=0.2, high=0.3)
        for q in ("cosine", "weight")
        for s in (10, 20)
    )
    numbers: dict[str, Any] = {"task": bad("left"), "metric": bad("error"), "value": 0.5}
    published = (External(source=bad("A paper"), dataset=bad("digits"), method=bad("theirs"), **numbers),)
    evidence = replace(evidence, traces=traces, external=published)
    locks = tuple(
        Registration(claim_id=c.id, number=1, registration=c.registration(evidence.sha256), registered_at=BEFORE)
        for c in asked
    )
    return replace(evidence, registrations=locks), asked


@cache
def hostile(payload: str) -> Made:
    return of_evidence(*poisoned(payload))


class Visit:
    """One page, opened with every request refused and every complaint written down."""

    def __init__(self, browser: Any, html: Path, width: int, dark: bool = False) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", offline=True
        )
        self.page = context.new_page()
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("console", lambda m: self.complaints.append(m.text))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("dialog", lambda d: self.complaints.append(d.message))
        self.page.goto(html.as_uri())
        self.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")

    def count(self, selector: str) -> int:
        return int(self.page.locator(selector).count())

    def overflow(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    evidence = simulate(design(), 0, claims())
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report_page(evidence, judge_evidence(evidence, claims())))
    return path


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_an_ordinary_report(browser: Any, ordinary: Path, width: int, dark: bool) -> None:
    visit = Visit(browser, ordinary, width, dark)
    assert visit.requests == [ordinary.as_uri()]
    assert visit.complaints == []
    assert visit.overflow() <= 0
    assert visit.count("article.card") == 3
    assert visit.count("script") == 1
    scale = "s => s.getBoundingClientRect().width / s.getAttribute('width')"
    assert visit.page.evaluate(f"Math.min(...[...document.querySelectorAll('svg.drawing')].map({scale}))") > 0.7
    assert visit.count("img") == visit.count("[style]") == 0
    paper, ink = (
        visit.page.evaluate(f"getComputedStyle(document.body).{what}") for what in ("backgroundColor", "color")
    )
    assert (sum(map(int, paper[4:-1].split(","))) < sum(map(int, ink[4:-1].split(",")))) is dark


def test_figures_show_what_they_are_about(browser: Any, ordinary: Path) -> None:
    visit = Visit(browser, ordinary, 1280)
    # two forests (percentage points, left.error), two trade-offs, two heat maps; strips for the measured claims
    assert visit.count("#effects svg") == 2
    assert visit.count("#effects .mark-symbol path") == visit.count("#claims .card:not(.invalid)")
    assert visit.count("#tradeoffs svg") == visit.count("#tasks svg") == 2
    seeds = visit.count("#tradeoffs .layer_3_marks path")
    assert seeds >= 2 * 5 * 4  # two datasets, at least five methods with at least four seeds that gave numbers
    assert visit.count("#tradeoffs .layer_0_marks path") == 4  # two baselines' fronts on two datasets
    assert visit.count("#profiles svg") == 1
    assert visit.count("#profiles .mark-line path") == 4
    assert visit.count("#tuning svg") == 2
    assert (
        visit.count("#tuning .mark-symbol path") >= 2 * 4 * 2
    )  # by trials and hours, four methods, one and two trials
    assert visit.count("#tuning .mark-rule.layer_2_marks line") == 2 * 4  # the budget of each
    assert visit.count("#ranks") == 0  # two datasets
    assert visit.count("#seeds svg") == 2
    assert visit.count("#seeds .mark-symbol path") >= 2 * 4 * 4
    assert visit.count("#tasks .mark-text.layer_1_marks text") == 2 * 4 * 2  # datasets, methods, tasks
    assert visit.count("#leaderboard svg circle") == 5
    for figure in visit.page.locator("svg.drawing").all():
        box = figure.bounding_box()
        assert box["width"] > 100
        assert box["height"] > 30
    colours = visit.page.evaluate(
        "[...document.querySelectorAll('.drawing text')].map(t => getComputedStyle(t).fill)"
        ".filter(c => c === 'rgba(0, 0, 0, 0)').length"
    )
    assert colours == 0


@pytest.mark.parametrize(("width", "tasks"), [(390, ("left", "right")), (1280, ("left", "middle", "right"))])
def test_claims_about_fronts_are_drawn(browser: Any, tmp_path: Path, width: int, tasks: tuple[str, ...]) -> None:
    sweep = {"w2": 0.2, "w5": 0.5, "w8": 0.8}
    front = Estimand(kind="front_pref")
    one = Claim(id="f", method="mto", baseline=Baseline(best_of=tuple(sweep), sweep=True), margin=2.0, estimand=front)
    given = {
        "effects": {**dict.fromkeys(sweep, 0.0), "mto": 3.0},
        "sweep": sweep,
        "datasets": ("digits",),
        "tasks": tasks,
    }
    path = of_evidence(simulate(Design(**given), 0, [one]), [one]).write(tmp_path / "report.html")[0]
    visit = Visit(browser, path, width)
    assert visit.complaints == [] and visit.overflow() <= 0
    panels = len(tasks) * (len(tasks) - 1) // 2
    assert visit.count("#tradeoffs svg") == (2 if panels == 1 else 3)
    last = "#tradeoffs .fronts svg"
    bands = ".layer_0_marks.mark-line path" if panels == 1 else ".layer_0_marks.mark-rect path"
    assert visit.count(f"{last} {bands}") == 1
    assert visit.count(f"{last} .layer_1_marks path, {last} .layer_1_marks line") == 1  # the preference
    assert visit.count(f"{last} .mark-symbol path") >= 4 * 5 + 4  # seeds and means of four methods
    if panels > 1:
        matrix = "#tradeoffs .whole svg"
        assert visit.count(f"{matrix} .mark-symbol path") >= panels * (5 * 5 + 5)
        shrunk = f"document.querySelector('{matrix}').getBoundingClientRect().width"
        assert visit.page.evaluate(shrunk) > 700, "a matrix stands over the whole width, or is scrolled"


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_text_becomes_an_element(browser: Any, tmp_path: Path, payload: str) -> None:
    made = hostile(payload)
    assert any(v.effect is not None for v in made.verdicts), [v.guards for v in made.verdicts]
    path = made.write(tmp_path / "report.html")[0]
    visit = Visit(browser, path, 390)
    assert visit.requests == [path.as_uri()]
    assert visit.complaints == []
    assert visit.page.evaluate("window.pwned === undefined")
    assert visit.count("script") == 1
    for tag in ("iframe", "object", "embed", "form", "input", "base", "img", "image", "foreignObject"):
        assert visit.count(tag) == 0, tag
    assert visit.count("style") == 1
    assert visit.count("a:not([href^='#'])") == 0
    handlers = "[...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => a.name.startsWith('on')))"
    assert visit.page.evaluate(f"{handlers}.length") == 0
    assert visit.overflow() <= 0
    text = visit.page.inner_text("body")
    assert "49" not in visit.page.title()
    assert payload[:12].split("\u202e")[0] in text.replace("\n", "")
    assert "\u202e" not in path.read_text()
    assert "\x1b" not in path.read_text()


def test_tables_sort_by_their_heads(browser: Any, ordinary: Path) -> None:
    visit = Visit(browser, ordinary, 1280)
    column = "[...document.querySelectorAll('.board tbody tr')].map(r => Number(r.cells[2].dataset.v))"
    head = visit.page.locator(".board th button").nth(1)  # improvement
    head.click()
    up = visit.page.evaluate(column)
    assert up == sorted(up)
    assert len(set(up)) == len(up) == 5
    head.click()
    assert visit.page.evaluate(column) == up[::-1]
    assert visit.complaints == []


@pytest.mark.parametrize("payload", [PAYLOADS[0], " ".join(PAYLOADS[1:])])
def test_interactive_figures_are_a_page_of_their_own(browser: Any, tmp_path: Path, payload: str) -> None:
    """Drawn in the browser by an inlined bundle: no request and no complaint, and hostile names stay text."""
    made = hostile(payload)
    path = made.write(tmp_path / "r.html", interactive=True)[2]
    visit = Visit(browser, path, 1280)
    visit.page.wait_for_function(f"document.querySelectorAll('.vega svg').length === {len(made.figures)}")
    assert visit.requests == [path.as_uri()]
    assert visit.complaints == []
    assert visit.page.evaluate("window.pwned === undefined")
    assert visit.count("img") == visit.count("a[href]") == 0
    assert visit.count(".vega svg .mark-symbol path") > 20
    assert "eval" in visit.page.inner_text("header")


def test_a_missing_browser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(pytest.fail.Exception, match="Debian's package `chromium`"):
        browser_path()
