"""What a mistake looks like to the one who made it."""

from __future__ import annotations

import doctest
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mtlfleet.errors import StudyInvalid
from mtlfleet.plan import Study, check
from mtlfleet.plan.claims import claim_from
from mtlfleet.plan.codes import CODES
from mtlfleet.plan.estimands import ESTIMANDS
from mtlfleet.plan.problems import MAX_ERRORS, render

Write = Callable[..., Path]

# (what is replaced, the error as it is printed; ... stands for lists that grow with the registry)
MISTAKES: dict[str, tuple[tuple[str, str], str]] = {
    "unknown hyper-parameter": (
        ("params: {c: 0.4}", "params: {rescal: 1}"),
        """\
error[E104]: unknown key `rescal` in method `cagrad`
   --> study.yaml:8:14
    |
  8 |     params: {rescal: 1}
    |              ^^^^^^ did you mean `rescale`?
   = note: cagrad accepts: c, rescale, ...
   = help: mtlfleet methods show cagrad
""",
    ),
    "unknown key of the shape": (
        ("train: {optimizer", "train: {optimiser"),
        """\
error[E104]: unknown key `optimiser` in `train`
  --> study.yaml:15:9
   |
15 | train: {optimiser: adam, lr: 1e-3, global_batch: 64, steps: 300}
   |         ^^^^^^^^^ did you mean `optimizer`?
   = note: train accepts: optimizer, lr, ...
""",
    ),
    "a word for a number": (
        ("lr: 1e-3", "lr: fast"),
        """\
error[E105]: `train.lr`: expected a number, found `fast`
  --> study.yaml:15:30
   |
15 | train: {optimizer: adam, lr: fast, global_batch: 64, steps: 300}
   |                              ^^^^ expected a number
""",
    ),
    "a misspelt choice": (
        ("optimizer: adam", "optimizer: adm"),
        """\
error[E105]: `train.optimizer`: expected `sgd`, `adam` or `adamw`, found `adm`
  --> study.yaml:15:20
   |
15 | train: {optimizer: adm, lr: 1e-3, global_batch: 64, steps: 300}
   |                    ^^^ did you mean `adam`?
""",
    ),
    "a hyper-parameter out of range": (
        ("{c: 0.4}", "{c: -0.4}"),
        """\
error[E105]: `c` of method `cagrad`: expected at least 0, found `-0.4`
  --> study.yaml:8:17
   |
 8 |     params: {c: -0.4}
   |                 ^^^^ expected at least 0
""",
    ),
    "duplicate key": (
        ("  cagrad:\n", "  ls: {use: sum}\n  cagrad:\n"),
        """\
error[E103]: duplicate key `ls`
  --> study.yaml:6:3
   |
 6 |   ls: {use: sum}
   |   ^^ given a second time
   = note: first given at line 5, column 3
""",
    ),
    "unknown method": (
        ("use: cagrad", "use: cagard"),
        """\
error[E301]: no method is called `cagard`
  --> study.yaml:7:10
   |
 7 |     use: cagard
   |          ^^^^^^ did you mean `cagrad`?
   = note: known: ...
   = help: mtlfleet methods list
""",
    ),
    "unknown preset": (
        ("use: cagrad", "use: cagrad@nahs"),
        """\
error[E301]: no preset of cagrad is called `nahs`
  --> study.yaml:7:10
   |
 7 |     use: cagrad@nahs
   |          ^^^^^^^^^^^ did you mean `nash`?
   = note: known: ...
   = help: mtlfleet methods list
""",
    ),
    "unknown backbone": (
        ("backbone: mlp", "backbone: mpl"),
        """\
error[E301]: no backbone is called `mpl`
  --> study.yaml:13:38
   |
13 |   mlp: {use: hps, params: {backbone: mpl}}
   |                                      ^^^ did you mean `mlp`?
   = note: known: ...
""",
    ),
    "claim on an unknown metric": (
        ("{kind: delta_m}", "{kind: metric, metric: task_0.rsme}"),
        """\
error[E203]: dataset `toy` has no metric `task_0.rsme`
  --> study.yaml:24:38
   |
24 |     estimand: {kind: metric, metric: task_0.rsme}
   |                                      ^^^^^^^^^^^ did you mean `task_0.rmse`?
   = note: known: ...
""",
    ),
    "claim on an unknown method": (
        ("method: cagrad\n", "method: cagrd\n"),
        """\
error[E202]: claim `c1`: the study has no method `cagrd`
  --> study.yaml:22:13
   |
22 |     method: cagrd
   |             ^^^^^ did you mean `cagrad`?
   = note: methods: stl, ls, cagrad
""",
    ),
    "unequal budgets": (
        ("{log_uniform: [1e-3, 1e-2]}", "{choice: [1e-3, 1e-2]}"),
        """\
...
error[E201]: claim `c1` compares 2 tuning trials (cagrad) with 4 (ls)
  --> study.yaml:21:9
   |
21 |   - id: c1
   |         ^^
   = help: set search.trials_per_method and a common space, or declare `parity: waived` with a reason ...
""",
    ),
    "no margin": (
        ("    margin: 0.5\n", ""),
        """\
error[E204]: `claims[0]` lacks `margin`
  --> study.yaml:21:5
   |
21 |   - id: c1
   |     ^^ add `margin:`
   = help: margin: the smallest effect worth claiming, in the estimand's unit
""",
    ),
    "a margin of nothing": (
        ("margin: 0.5", "margin: 0"),
        """\
error[E204]: `claims[0].margin`: expected more than 0, found `0`
  --> study.yaml:25:13
   |
25 |     margin: 0
   |             ^ expected more than 0
""",
    ),
    "no scope": (
        ("    scope: these_datasets\n", ""),
        """\
error[E210]: `claims[0]` lacks `scope`
  --> study.yaml:21:5
   |
21 |   - id: c1
   |     ^^ add `scope:`
   = help: scope: these_datasets (other seeds), or datasets_like_these (other datasets of the kind)
""",
    ),
    "a claim on a rank": (
        ("kind: delta_m", "kind: mean_rank"),
        """\
error[E211]: claim `c1`: no claim on mean_rank
  --> study.yaml:24:22
   |
24 |     estimand: {kind: mean_rank}
   |                      ^^^^^^^^^
   = note: a mean rank depends on which other methods are in the study and has no size that a margin could bound; ...
   = help: estimand: {kind: delta_m}, delta_p, ...
""",
    ),
    "looks that spend too much": (
        (
            "scope: these_datasets",
            "scope: these_datasets\n    stopping: {kind: group_sequential, looks: [5, 8], alpha: [0.05, 0.05]}",
        ),
        """\
error[E212]: claim `c1`: the looks spend 0.1 together, the claim has 0.05
  --> study.yaml:27:5
   |
27 |     stopping: {kind: group_sequential, looks: [5, 8], alpha: [0.05, 0.05]}
   |     ^^^^^^^^
""",
    ),
    "a preference among other tasks": (
        ("{kind: delta_m}", "{kind: front_pref, w: {task_0: 1, tsk_1: 1}}"),
        """\
error[E214]: claim `c1`: a preference weighs every task of `toy`; wrong: task_1, tsk_1
  --> study.yaml:24:34
   |
24 |     estimand: {kind: front_pref, w: {task_0: 1, tsk_1: 1}}
   |                                  ^
   = note: tasks: task_0, task_1
   = help: w: equal fits every dataset
""",
    ),
    "a claim of the literature that is not there": (
        ("  - id: c1\n    method: cagrad\n    baseline: {best_of: [ls]}\n", "  - use: kurin2022/pcgard\n"),
        """\
error[E215]: no claim of the literature is called `kurin2022/pcgard`
  --> study.yaml:21:10
   |
21 |   - use: kurin2022/pcgard
   |          ^^^^^^^^^^^^^^^^ did you mean `kurin2022/pcgrad`?
   = note: papers: ...
""",
    ),
    "splits that overlap by nobody knows how much": (
        ("scope: these_datasets", "scope: these_datasets\n    splits: {kind: resampled}"),
        """\
error[E216]: claim `c1`: `test_fraction` belongs to resampled splits, which need it
  --> study.yaml:27:5
   |
27 |     splits: {kind: resampled}
   |     ^^^^^^
""",
    ),
    "no single-task runs": (
        ("  stl: {use: stl}\n", ""),
        """\
error[E205]: claim `c1` is about delta_m, but `toy` has no single-task runs
  --> study.yaml:20:9
   |
20 |   - id: c1
   |         ^^
   = help: add a method {use: stl}
""",
    ),
    "tuning on a final seed": (
        ("seeds: [901]", "seeds: [901, 3]"),
        """\
error[E401]: tuning seed 3 is also a final seed
  --> study.yaml:19:16
   |
19 |   seeds: [901, 3]
   |                ^ runs that chose a configuration cannot also judge it
   = help: take tuning seeds outside `seeds`
""",
    ),
    "selection on test": (
        ("  seeds: [901]", "  seeds: [901]\n  select: test.task_0.rmse"),
        """\
error[E402]: `select: test.task_0.rmse` would read the test split
  --> study.yaml:20:11
   |
20 |   select: test.task_0.rmse
   |           ^^^^^^^^^^^^^^^^ selection reads validation only
   = help: name the metric without a split, e.g. left.accuracy
""",
    ),
    "weights for another number of tasks": (
        ("tasks: 2, points", "tasks: 3, points"),
        """\
error[E404]: 3 weights, but dataset `toy` has 2 tasks
  --> study.yaml:5:56
   |
 5 |   ls: {use: linear, space: {weights: {simplex: {tasks: 3, points: 3}}}}
   |                                                        ^ expected 2
""",
    ),
    "steps and epochs": (
        ("steps: 300", "steps: 300, epochs: 2"),
        """\
error[E405]: `train` gives both steps and epochs
  --> study.yaml:15:66
   |
15 | train: {optimizer: adam, lr: 1e-3, global_batch: 64, steps: 300, epochs: 2}
   |                                                                  ^^^^^^ give exactly one
""",
    ),
    "a decay of a cosine": (
        ("steps: 300", "steps: 300, schedule: cosine, decay: 0.1"),
        """\
error[E417]: `decay` says nothing with schedule: cosine
  --> study.yaml:15:84
   |
15 | train: {optimizer: adam, lr: 1e-3, global_batch: 64, steps: 300, schedule: cosine, decay: 0.1}
   |                                                                                    ^^^^^ only schedule: step decays
   = help: add schedule: step, or remove decay
""",
    ),
    "a searched training length": (
        ("{train.lr: ", "{train.steps: {int: [10, 20]}, train.lr: "),
        """\
error[E406]: `train.steps` cannot be searched
  --> study.yaml:17:11
   |
17 |   space: {train.steps: {int: [10, 20]}, train.lr: {log_uniform: [1e-3, 1e-2]}}
   |           ^^^^^^^^^^^
   = note: every configuration trains equally long
   = note: a method's own hyper-parameters belong into its own `space`
""",
    ),
    "an upside-down space": (
        ("[1e-3, 1e-2]", "[1e-2, 1e-3]"),
        """\
error[E406]: `train.lr`: needs 0 < low < high, found [0.01, 0.001]
  --> study.yaml:17:22
   |
17 |   space: {train.lr: {log_uniform: [1e-2, 1e-3]}}
   |                      ^^^^^^^^^^^
""",
    ),
    "ranks sharing a GPU": (
        ("claims:", "resources: {workers: 2, gpus_per_worker: 0.5}\nclaims:"),
        """\
error[E409]: 2 workers with 0.5 of a GPU each
  --> study.yaml:20:42
   |
20 | resources: {workers: 2, gpus_per_worker: 0.5}
   |                                          ^^^ ranks of one trial cannot share a GPU
   = help: gpus_per_worker: 1, or workers: 1
""",
    ),
    "results outside the study's folder": (
        ("claims:", "storage: {root: runs/../../x}\nclaims:"),
        """\
error[E410]: storage.root `runs/../../x` leaves the study's folder
  --> study.yaml:20:17
   |
20 | storage: {root: runs/../../x}
   |                 ^^^^^^^^^^^^
   = help: write an absolute path if you mean a place outside
""",
    ),
    "a missing plug-in": (
        ("methods:", "plugins: [./tlit.py]\nmethods:"),
        """\
error[E303]: plug-in file not found: ./tlit.py
  --> study.yaml:3:11
   |
 3 | plugins: [./tlit.py]
   |           ^^^^^^^^^
   = note: looked for .../tlit.py
""",
    ),
    "a plug-in outside": (
        ("methods:", "plugins: [../tilt.py]\nmethods:"),
        """\
error[E410]: plug-in `../tilt.py` leaves the study's folder
  --> study.yaml:3:11
   |
 3 | plugins: [../tilt.py]
   |           ^^^^^^^^^^
   = help: put the file beside the study, or install it and name its module
""",
    ),
    "a name that is no id": (
        ("  ls: {", "  L S: {"),
        """\
error[E109]: `L S` cannot be an id
  --> study.yaml:5:3
   |
 5 |   L S: {use: linear, space: {weights: {simplex: {tasks: 2, points: 3}}}}
   |   ^^^
   = note: ids are lower-case letters, digits, `-` and `_`, ...
...""",
    ),
    "the environment where science stands": (
        ("lr: 1e-3", 'lr: "${env:LR}"'),
        """\
error[E110]: `${env:LR}`: environment variables are read only in paths
  --> study.yaml:15:30
   |
15 | train: {optimizer: adam, lr: "${env:LR}", global_batch: 64, steps: 300}
   |                              ^^^^^^^^^^^
   = note: allowed in storage.root, in mirrors and in a dataset's parameters root, path, *_root, *_path
...""",
    ),
    "infinity": (
        ("lr: 1e-3", "lr: .inf"),
        """\
error[E111]: `.inf` is not a finite number
  --> study.yaml:15:30
   |
15 | train: {optimizer: adam, lr: .inf, global_batch: 64, steps: 300}
   |                              ^^^^
...""",
    ),
    "a rule about nothing": (
        ("claims:", "exclude: [{dataset: tyo}]\nclaims:"),
        """\
error[E306]: the study has no dataset `tyo`
  --> study.yaml:20:21
   |
20 | exclude: [{dataset: tyo}]
   |                     ^^^ did you mean `toy`?
   = note: known: toy
""",
    ),
    "a dataset that refuses its parameters": (
        ("params: {tasks: 2}", "params: {tasks: 2, train: -5}"),
        """\
error[E305]: dataset `toy`...train...
  --> study.yaml:11:3
   |
11 |   toy: {use: synthetic_regression, params: {tasks: 2, train: -5}}
   |   ^^^
""",
    ),
    "two names for one configuration": (
        ("  cagrad:\n", "  again: {use: cagrad, params: {c: 0.4}}\n  cagrad:\n"),
        """\
error[E413]: methods `again` and `cagrad` contain the same configuration
  --> study.yaml:7:3
   |
 7 |   cagrad:
   |   ^^^^^^ the same run as in `again`
   = note: a run counts for one arm; equal configurations have equal keys
""",
    ),
    "an optimizer under a method that is one": (
        ("  cagrad:\n", "  adatask: {}\n  cagrad:\n"),
        """\
error[E414]: method `adatask` is an optimizer with moments of its own, and would run with `train.optimizer: adam`
  --> study.yaml:6:3
   |
 6 |   adatask: {}
   |   ^^^^^^^ its update would be adapted once more
   = help: overrides: [{when: {method: adatask}, set: {train.optimizer: sgd, train.momentum: 0}}]
""",
    ),
    "patience without a choice": (
        ("steps: 300}", "steps: 300, keep: last, patience: 3}"),
        """\
error[E415]: `patience` stops a trial for its best checkpoint, and `keep: last` throws that away
  --> study.yaml:15:88
   |
15 | train: {optimizer: adam, lr: 1e-3, global_batch: 64, steps: 300, keep: last, patience: 3}
   |                                                                                        ^ needs keep: best
   = help: leave `keep` out, or `patience`
""",
    ),
    "a YAML tag": (
        ("lr: 1e-3", "lr: !!python/name:os.system x"),
        """\
error[E107]: YAML tag `!!python/name:os.system` refused: a study file holds plain data only
  --> study.yaml:15:30
   |
15 | train: {optimizer: adam, lr: !!python/name:os.system x, global_batch: 64, steps: 300}
   |                              ^
""",
    ),
    "a truncated file": (
        ("[1e-3, 1e-2]}}\n  trials_per_method: 4\n  seeds: [901]\nclaims:", "[1e-3, 1e-2]\nclaims:"),
        """\
error[E102]: not valid YAML: ...
  --> study.yaml:...
   |
...
   = note: while parsing a flow mapping, begun at line 17, column 21
""",
    ),
    "an old schema": (
        ("mtlfleet/study/1", "mtlfleet/study/0"),
        """\
error[E112]: unknown schema `mtlfleet/study/0`
  --> study.yaml:1:9
   |
 1 | schema: mtlfleet/study/0
   |         ^^^^^^^^^^^^^^^^ this mtlfleet reads `mtlfleet/study/1`
""",
    ),
    "a merge key": (
        ("train: {", "train: {<<: {lr: 1}, "),
        """\
error[E107]: merge keys (`<<`) are not YAML 1.2
  --> study.yaml:15:9
   |
15 | train: {<<: {lr: 1}, optimizer: adam, lr: 1e-3, global_batch: 64, steps: 300}
   |         ^^
   = help: write the entries out
""",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_where_it_stands(name: str, study: Write) -> None:
    replacement, expected = MISTAKES[name]
    findings = check(study(replacement))
    printed = render(findings)
    blocks = printed.rpartition("\n")[0] + "\n"
    want = re.sub(r"^ +-->", " -->", expected, flags=re.M)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(want, blocks, flags), f"\n{printed}"
    assert len(findings.errors) == 1 or expected.endswith("..."), printed


def test_the_frame_is_aligned(study: Write) -> None:
    """Character by character: the golden texts above are compared up to white space."""
    assert render(check(study(("lr: 1e-3", "lr: fast")))) == (
        "error[E105]: `train.lr`: expected a number, found `fast`\n"
        "   --> study.yaml:15:30\n"
        "    |\n"
        " 15 | train: {optimizer: adam, lr: fast, global_batch: 64, steps: 300}\n"
        "    |                              ^^^^ expected a number\n"
        "1 error"
    )


def test_all_mistakes_come_at_once_and_in_order(study: Write) -> None:
    path = study(
        ("use: cagrad", "use: cagard"),
        ("lr: 1e-3", "lr: fast"),
        ("seeds: [901]", "seeds: [1]"),
        ("best_of: [ls]", "best_of: [sl]"),
    )
    findings = check(path)
    assert [(d.code, d.place.line) for d in findings.errors if d.place] == [
        ("E301", 7),
        ("E105", 15),
        ("E401", 19),
        ("E202", 23),
    ]
    with pytest.raises(StudyInvalid) as raised:
        Study.load(path)
    assert raised.value.findings.errors == findings.errors
    assert "did you mean `cagrad`?" in "".join(raised.value.__notes__)


def test_a_mistake_in_one_claim_keeps_the_place_of_the_next(study: Write) -> None:
    second = "  - {id: c2, method: cagrd, baseline: {best_of: [ls]}, margin: 1, scope: these_datasets}\n"
    path = study(("    margin: 0.5\n", ""), ("    scope: these_datasets\n", "    scope: these_datasets\n" + second))
    assert [(d.code, d.place.line) for d in check(path).errors if d.place] == [("E204", 21), ("E202", 26)]


def test_at_most_twenty_errors_are_shown(study: Write) -> None:
    wrong = "".join(f"  wrong{i}: {{use: nothing{i}}}\n" for i in range(30))
    findings = check(study(("  cagrad:\n", f"{wrong}  cagrad:\n")))
    assert sum(d.code == "E301" for d in findings.diagnostics) == MAX_ERRORS
    assert "10 more errors not shown" in render(findings)


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 106)
)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "E102"),
        (b"# nothing\n", "E102"),
        (b"just words", "E105"),
        (b"- a\n- b\n", "E105"),
        (b"study: a\x00b", "E101"),
        (b"\xff\xfes\x00t\x00u\x00d\x00y\x00", "E101"),
        (b"study: \xe9", "E101"),
        (b"a: \x1b]52;c;x\x07", "E101"),
        (b"a: [" * 5000, "E108"),
        (b"a:\n" + b"- x\n" * 60_000, "E108"),
        (b"#" * (1 << 20) + b"\n", "E108"),
        (BOMB, "E108"),
        (b"a: &a x\nb: [" + b"*a," * 300 + b"]\n", "E108"),
        (b"a: &a [*a]\n", "E108"),
        (b"%YAML 1.1\n---\na: yes\n", "E107"),
        (b"a: 1\n---\nb: 2\n", "E102"),
        (b"? [a, b]\n: c\n", "E107"),
        (b"a: 99999999999999999999999999\n", "E105"),
        (b"\tschema: 1\n", "E102"),
    ],
    ids=["empty", "comment", "text", "list", "nul", "utf-16", "latin-1", "escape", "deep", "many-nodes", "long",
         "alias-bomb", "many-aliases", "self-alias", "directive", "two-documents", "list-as-key", "huge-integer",
         "tab"],
)  # fmt: skip
def test_hostile_bytes_are_refused_with_a_place(content: bytes, code: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    findings = check(path)
    assert code in [d.code for d in findings.errors]
    assert all(d.place is not None and d.place.line >= 1 and d.place.column >= 1 for d in findings.errors)


def test_a_missing_file_is_an_error_without_a_place(tmp_path: Path) -> None:
    (error,) = check(tmp_path / "none.yaml").errors
    assert error.code == "E100" and error.place is None


def test_a_byte_order_mark_and_windows_line_ends_are_read(study: Write) -> None:
    path = study()
    plain = Study.load(path).sha256
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert Study.load(path).sha256 == plain


def test_no_terminal_is_driven_through_an_error(study: Write) -> None:
    printed = render(check(study(("use: cagrad", r'use: "ca\e]52;c;eA\agrad"'))))
    assert "E301" in printed and "\x1b" not in printed and "\x07" not in printed


def test_plugin_code_is_not_run_by_a_check(study: Write) -> None:
    Path("tilt.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\n"
        "@method('tilt')\nclass Tilt:\n    c: Annotated[float, Ge(0)] = 0.5\n"
        "@dataset('mine')\nclass Mine:\n    pass\n"
    )
    path = study(
        ("methods:", "plugins: [./tilt.py]\nmethods:"),
        ("use: cagrad", "use: tilt"),
        ("synthetic_regression, params: {tasks: 2}", "mine"),
    )
    findings = check(path)
    assert findings.errors == () and [d.code for d in findings.warnings] == ["W504"]
    assert not Path("ran").exists()
    assert [d.code for d in check(study(("{c: 0.4}", "{c: -1}"), text=path.read_text())).errors] == ["E105"]


def test_an_annotation_is_not_evaluated(study: Write) -> None:
    Path("tilt.py").write_text("@method('tilt')\nclass Tilt:\n    c: open('ran', 'w') = 0.5\n")
    findings = check(study(("methods:", "plugins: [./tilt.py]\nmethods:"), ("use: cagrad", "use: tilt")))
    assert findings.errors == () and not Path("ran").exists()


def test_parity_can_be_waived_with_a_reason_only(study: Write) -> None:
    unequal = ("{log_uniform: [1e-3, 1e-2]}", "{choice: [1e-3, 1e-2]}")
    waived = ("    margin: 0.5", "    margin: 0.5\n    parity: waived")
    assert [d.code for d in check(study(unequal)).errors] == ["E201"]
    assert [d.code for d in check(study(unequal, waived)).errors] == ["E207"]
    reasoned = (waived[0], waived[1] + "\n    parity_reason: published learning rates")
    assert check(study(unequal, reasoned)).errors == ()


def test_each_of_several_baselines_may_have_the_methods_own_budget(study: Write) -> None:
    assert check(study(("best_of: [ls]}", "best_of: [ls, stl]}"))).errors == ()


def test_designs_that_cannot_answer_are_warned_of(study: Write) -> None:
    beyond = check(study(("scope: these_datasets", "scope: datasets_like_these")))
    assert beyond.errors == () and [d.code for d in beyond.warnings] == ["W502"]
    found = check(study(("count: 8", "count: 4")))
    assert found.errors == () and [d.code for d in found.warnings] == ["W501"]
    assert "smallest p-value of 4 seeds x 1 dataset is 0.062, needed is 0.05" in found.warnings[0].message
    assert check(study(("count: 8", "count: 5"))).warnings == ()


def test_a_family_of_datasets_is_about_judging_and_in_no_trials_key(study: Write) -> None:
    entry = "  toy: {use: synthetic_regression, params: {tasks: 2}}"
    two = entry + "\n  twin: {use: synthetic_regression, params: {tasks: 2, noise: 0.3}}"
    scope = ("scope: these_datasets", "scope: datasets_like_these")
    plain = Study.load(study(scope, (entry, two)))
    found = check(study(scope, (entry, two.replace("}}", "}, dataset_family: kin}"))))
    assert [d.code for d in found.warnings] == ["W502"] and "has 1 (2 of them, in 1 families)" in found.warnings[
        0
    ].message
    kin = Study.load(study(scope, (entry, two.replace("}}", "}, dataset_family: kin}"))))
    assert kin.claims[0].dataset_families == (("toy", "kin"), ("twin", "kin"))
    assert [t.key for t in kin.tune_trials()] == [t.key for t in plain.tune_trials()]
    assert kin.claims[0].registration("") != plain.claims[0].registration("")
    assert "dataset_families" not in plain.claims[0].to_dict()
    assert claim_from(json.loads(json.dumps(kin.claims[0].to_dict()))) == kin.claims[0]


MISFITS = {
    "safety is non-inferiority": ("{kind: every_task}", "safety claim"),
    "a front is beaten or not": ("{kind: front_pref}\n    alternative: equivalence", "superiority or no_better_than"),
    "eps without a front": ("{kind: delta_p, eps: 1}", "`w` and `eps` belong to front_pref"),
    "an open front": ("{kind: front_pref}\n    stopping: {kind: anytime}", "e-process follows one difference"),
    "a time without its target": ("{kind: time_to_target, metric: task_0.rmse}", "time_to_target needs `target`"),
    "a match without seconds": ("{kind: compute_matched, metric: task_0.rmse}", "compute_matched needs `device_s`"),
    "a target of an average": ("{kind: delta_p, target: 0.5}", "`target` belongs to time_to_target"),
    **{kind: (f"{{kind: {kind}}}", facts.refused) for kind, facts in ESTIMANDS.items() if facts.refused},
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_an_estimand_refuses_what_it_is_not_valid_for(study: Write, name: str) -> None:
    estimand, reason = MISFITS[name]
    found = check(study(("{kind: delta_m}", estimand)))
    assert [d.code for d in found.errors] == ["E211"]
    assert reason in found.errors[0].notes[0]


def test_claims_about_pace_are_read_with_what_they_need(study: Write) -> None:
    for kind, name in (("time_to_target", "target"), ("compute_matched", "device_s")):
        text = f"{{kind: {kind}, metric: task_0.rmse, {name}: 0.5}}"
        one = Study.load(study(("{kind: delta_m}", text))).claims[0].estimand
        assert (one.kind, one.task, one.metric, getattr(one, name)) == (kind, "task_0", "rmse", 0.5)
        assert not one.relative
        typo = ("{kind: delta_m}", text.replace("task_0.rmse, ", "task_0.rsme, "))
        assert [d.code for d in check(study(typo)).errors] == ["E203"]
        assert check(study(("{kind: delta_m}", text.replace("0.5", ".nan")))).errors
    seconds = ("{kind: delta_m}", "{kind: time_to_target, metric: task_0.rmse, target: 0.5}")
    found = check(study(seconds, ("scope: these_datasets", "scope: datasets_like_these"))).errors
    assert [d.code for d in found] == ["E211"] and "none of another" in found[0].notes[0]


def test_failed_runs_are_left_out_for_a_reason_only(study: Write) -> None:
    given = "    margin: 0.5"
    reason = "\n    failures_reason: half of the memory was taken"
    out = (given, given + "\n    failures: exclude")
    assert [d.code for d in check(study(out)).errors] == ["E217"]
    assert check(study((given, out[1] + reason))).errors == ()
    anytime = check(study((given, out[1] + reason + "\n    stopping: {kind: anytime}")))
    assert [d.code for d in anytime.errors] == ["E217"] and "judged once" in anytime.errors[0].message
    ranked = check(study((given, given + "\n    failures: loss_rank")))
    assert [d.code for d in ranked.errors] == ["E217"] and "no size that a margin" in ranked.errors[0].notes[0]


STOPPINGS = {
    "{kind: fixed, looks: [5], alpha: [0.05]}": "belong to group_sequential",
    "{kind: group_sequential, looks: [5, 8], alpha: [0.05]}": "one alpha per look",
    "{kind: group_sequential, looks: [8, 5], alpha: [0.02, 0.03]}": "looks must increase",
    "{kind: group_sequential, looks: [5, 9], alpha: [0.02, 0.03]}": "the study has 8",
    "{kind: anytime}\n    datasets: [toy]\n    scope: datasets_like_these": "counted in datasets",
}


@pytest.mark.parametrize("stopping", STOPPINGS)
def test_a_stopping_rule_must_be_one(study: Write, stopping: str) -> None:
    text = ("    scope: these_datasets", f"    stopping: {stopping}")
    extra = "" if "scope:" in stopping else "\n    scope: these_datasets"
    found = check(study((text[0], text[1] + extra)))
    assert [d.code for d in found.errors] == ["E212"]
    assert STOPPINGS[stopping] in found.errors[0].message


def test_a_look_that_cannot_decide_is_warned_of_with_the_first_that_can(study: Write) -> None:
    stopping = "    stopping: {kind: group_sequential, looks: [5, 8], alpha: [0.01, 0.04]}\n"
    found = check(study(("    scope: these_datasets\n", "    scope: these_datasets\n" + stopping)))
    assert [d.code for d in found.warnings] == ["W501"]
    assert "can never be decided at its look of 5 seeds" in found.warnings[0].message
    assert found.warnings[0].help == "a first look at 7 seeds"


def test_a_family_is_corrected_in_one_way(study: Write) -> None:
    both = "    scope: these_datasets\n  - {id: c2, method: cagrad, baseline: {method: ls}, margin: 1"
    both += ", scope: these_datasets"
    mixed = check(study(("    scope: these_datasets\n", both + ", correction: max_t}\n")))
    assert [d.code for d in mixed.errors] == ["E213"]
    alone = check(study(("    scope: these_datasets\n", both + ", correction: max_t, family: other}\n")))
    assert alone.errors == ()
    unfit = both + ", correction: max_t, family: other, alternative: equivalence}\n"
    assert [d.code for d in check(study(("    scope: these_datasets\n", unfit))).errors] == ["E213"]


def test_a_sweep_is_for_fronts_and_its_members_are_methods_of_the_study(study: Write) -> None:
    sweep = ("{best_of: [ls]}", "{sweep: [ls, stl]}")
    assert [d.code for d in check(study(sweep)).errors] == ["E211"]
    front = ("{kind: delta_m}", "{kind: front_pref, w: [{task_0: 0.5, task_1: 0.5}, {task_0: 1, task_1: 0}]}")
    loaded = Study.load(study(sweep, front))
    assert loaded.claims[0].baseline.sweep
    assert loaded.claims[0].estimand.preferences[1] == (("task_0", 1.0), ("task_1", 0.0))
    lost = check(study(("{best_of: [ls]}", "{sweep: [ls, sl]}"), front))
    assert [(d.code, d.place.line) for d in lost.errors if d.place] == [("E202", 23)]


def test_every_code_is_explained() -> None:
    folder = Path(__file__).parents[3] / "mtlfleet" / "plan"
    used = {
        code
        for path in folder.glob("*.py")
        if path.name not in ("codes.py", "claimcodes.py")
        for code in re.findall(r'"([EW]\d{3})"', path.read_text())
    }
    assert used == set(CODES)
    assert all(len(e.text) > 60 and e.example for e in CODES.values())


def test_an_anchor_given_twice_is_no_mistake_and_no_warning(study: Write) -> None:
    path = study(("lr: 1e-3", "lr: &a 1e-3"), ("steps: 300", "steps: &a 300"))
    assert check(path).errors == ()
