"""Data in a folder: each format written by the test, checked, prepared, read back and trained on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
import folder_samples

from mtlfleet import registry
from mtlfleet.cli import main
from mtlfleet.datasets.base import Split
from mtlfleet.datasets.prepared import Prepared, carve_groups
from mtlfleet.engine.contract import Context
from mtlfleet.errors import EnvironmentProblem
from mtlfleet.train.feed import to_batch

IN_FOLDERS = [n for n, e in registry.builtin("dataset").items() if "root" in {p.name for p in e.parameters}]


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(words), standalone_mode=True)
    return done.exit_code, done.output


@pytest.fixture(scope="module", params=IN_FOLDERS)
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root = tmp_path_factory.mktemp(request.param)
    params = folder_samples.WRITERS[request.param](root)
    built = registry.build("dataset", request.param, root=str(root), **params)
    assert isinstance(built, Prepared)
    assert not list(built.findings())
    with pytest.raises(EnvironmentProblem, match="not prepared") as refused:
        built.facts()
    assert f"mtlfleet datasets prepare {request.param} --root {root}" in str(refused.value)
    built.prepare()
    return built


def test_every_folder_has_a_writer() -> None:
    assert set(IN_FOLDERS) == set(folder_samples.WRITERS) == set(folder_samples.NETWORKS)


def test_facts_agree_with_the_data(data: Prepared) -> None:
    facts = data.facts()
    sizes = {Split.TRAIN: facts.train_size, Split.VAL: facts.extras["val_size"], Split.TEST: facts.extras["test_size"]}
    for split, size in sizes.items():
        samples = data.split(split)
        assert len(samples) == size > 0
        arrays = samples.fetch(np.arange(size)[::-1])
        assert list(arrays.targets) == [task.name for task in facts.tasks]
        inputs = arrays.inputs if isinstance(arrays.inputs, Mapping) else {"": arrays.inputs}
        for x in inputs.values():
            assert x.shape == (size, *facts.input_shape) and x.dtype in (np.float32, np.int64)
            assert np.isfinite(x).all()
        for task in facts.tasks:
            y = arrays.targets[task.name]
            assert y.dtype == (np.int64 if task.kind in ("classification", "segmentation") else np.float32)
            assert np.isfinite(y).all() and len(y) == size
            if y.dtype == np.int64:
                assert y.min() >= -1 and y.max() < task.outputs


def test_no_sample_is_in_two_splits(data: Prepared) -> None:
    seen: dict[bytes, Split] = {}
    for split in Split:
        samples = data.split(split)
        arrays = samples.fetch(np.arange(len(samples)))
        inputs = arrays.inputs if isinstance(arrays.inputs, Mapping) else {"": arrays.inputs}
        if data.name == "pawsx":
            continue  # the sentences of this sample repeat
        for task, x in inputs.items():
            for row in x:
                assert seen.setdefault(task.encode() + row.tobytes(), split) is split


def test_a_model_trains_on_it_and_its_loss_falls(data: Prepared) -> None:
    facts = data.facts()
    torch.manual_seed(0)
    model = registry.build("architecture", "hps", **folder_samples.NETWORKS[data.name]).build(
        facts.tasks, facts.input_shape
    )
    samples = data.split(Split.TRAIN)
    batch = to_batch(samples.fetch(np.arange(min(12, len(samples)))), tuple(t.name for t in facts.tasks))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    history = []
    for _ in range(12):
        output = model(batch, Context())
        total = torch.stack([data.loss(task, output.predictions[task.name], batch) for task in facts.tasks]).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    assert history[-1] < 0.98 * history[0]


def test_preparing_again_changes_nothing_and_a_copy_elsewhere_is_the_same(data: Prepared, tmp_path: Path) -> None:
    before = data.facts()
    data.prepare()
    params = folder_samples.WRITERS[data.name](tmp_path)
    copy = registry.build("dataset", data.name, root=str(tmp_path), **params)
    copy.prepare()
    assert data.facts() == copy.facts() == before


def test_facts_of_prepared_data_need_no_torch(data: Prepared) -> None:
    params = {k: v for k, v in vars(data).items() if v is not None}
    probe = (
        "import sys; from mtlfleet import registry\n"
        f"print(registry.build('dataset', {data.name!r}, **{params!r}).facts().fingerprint)\n"
        "print([m for m in ('torch', 'PIL', 'scipy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n", 1) == [data.facts().fingerprint, "[]\n"]


def test_check_names_a_missing_a_truncated_and_a_misshapen_file(tmp_path: Path) -> None:
    folder_samples.nyuv2(tmp_path)
    assert run("datasets", "check", "nyuv2", "--root", str(tmp_path)) == (0, "nyuv2: sound\n")
    missing, cut, other = (tmp_path / "train" / p for p in ("depth/3.npy", "image/5.npy", "normal/7.npy"))
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:-100])
    np.save(other, np.zeros((16, 30, 3), np.float32))
    code, said = run("datasets", "check", "nyuv2", "--root", str(tmp_path))
    assert code == 4
    assert f"{missing}: missing" in said
    assert f"{cut}: cut short: " in said
    assert f"{other}: shape [16, 30, 3], expected [16, 32, 3]" in said
    assert "nyuv2: 3 findings" in said
    assert run("datasets", "prepare", "nyuv2", "--root", str(tmp_path))[0] == 4


@pytest.mark.parametrize(
    ("name", "break_it", "says"),
    [
        ("multimnist", lambda r: (r / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x05ab"), "cut short"),
        ("celeba", lambda r: (r / "Img/img_align_celeba/000003.jpg").unlink(), "000003.jpg: missing"),
        ("celeba", lambda r: (r / "Eval/list_eval_partition.txt").unlink(), "has none of Eval/list_eval_partition.txt"),
        ("office", lambda r: (r / "dslr_val.txt").write_text("dslr/back pack/frame_0.jpg 31\n"), "label 31"),
        ("qm9", lambda r: (r / "qm9.npz").write_bytes(b"PK"), "does not hold x, pos"),
        ("pawsx", lambda r: (r / "dev-de.tsv").write_text("sentence1\tsentence2\tlabel\na\tb\n"), "dev-de.tsv:2"),
        ("aliexpress", lambda r: (r / "test.csv").write_text("a,b\n1,2\n"), "2 columns"),
        ("census", lambda r: (r / "census-income.test").unlink(), "census-income.test"),
        ("sarcos", lambda r: (r / "sarcos_inv.mat").write_bytes(b"MATLAB"), "cut short"),
        ("cityscapes_png", lambda r: next(r.glob("disparity/val/*/*.png")).write_text("no"), "no JPEG, PNG or PPM"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(name: str, break_it: Any, says: str, tmp_path: Path) -> None:
    folder_samples.WRITERS[name](tmp_path)
    break_it(tmp_path)
    code, said = run("datasets", "check", name, "--root", str(tmp_path))
    assert code == 4 and says in said, said


def test_both_formats_of_qm9_give_the_same_arrays(tmp_path: Path) -> None:
    prints = []
    for writer in (folder_samples.qm9, folder_samples.qm9_pyg):
        root = tmp_path / writer.__name__
        root.mkdir()
        writer(root)
        built = registry.build("dataset", "qm9", root=str(root))
        built.prepare()
        prints.append(built.facts().fingerprint)
    assert prints[0] == prints[1]


def test_the_nyuv2_loader_reads_exported_dense_digits(tmp_path: Path) -> None:
    root = tmp_path / "digits"
    sizes = [word for size in ("train=10", "val=5", "test=4") for word in ("--set", size)]
    assert run("datasets", "prepare", "densedigits", "--root", str(root), *sizes)[0] == 0
    assert run("datasets", "prepare", "nyuv2", "--root", str(root))[0] == 0
    samples = registry.build("dataset", "nyuv2", root=str(root)).split(Split.TEST)
    source = registry.build("dataset", "densedigits", train=10, val=5, test=4).split(Split.TEST)
    mine, theirs = samples.fetch(np.arange(4)), source.fetch(np.arange(4))
    np.testing.assert_array_equal(mine.inputs[:, :1], theirs.inputs)
    for task in ("segmentation", "depth", "normals"):
        np.testing.assert_array_equal(mine.targets[task], theirs.targets[task])


def test_domains_of_unequal_size_begin_again_in_training_and_end_elsewhere(tmp_path: Path) -> None:
    params = folder_samples.office(tmp_path)
    built = registry.build("dataset", "office", root=str(tmp_path), **params)
    built.prepare()
    train, test = built.split(Split.TRAIN), built.split(Split.TEST)
    arrays = train.fetch(np.arange(12))
    assert arrays.present is None and len(train) == 12
    np.testing.assert_array_equal(arrays.inputs["webcam"][:4], arrays.inputs["webcam"][4:8])
    last = test.fetch(np.arange(len(test)))
    assert last.present is not None
    assert {name: int(there.sum()) for name, there in last.present.items()} == {"amazon": 3, "dslr": 4, "webcam": 5}


def test_a_category_never_seen_is_zero(tmp_path: Path) -> None:
    folder_samples.aliexpress(tmp_path)
    built = registry.build("dataset", "aliexpress", root=str(tmp_path))
    built.prepare()
    train, test = (built.split(s).fetch(np.arange(3)).inputs for s in (Split.TRAIN, Split.TEST))
    assert (train[:, :16] >= 1).all()
    assert not test[0, :16].any() and (test[1, :16] >= 1).any()


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together(seed: int) -> None:
    groups = np.random.RandomState(seed).randint(0, 30, 200)
    train, val = carve_groups(groups, 0.2, seed)
    assert len(train) + len(val) == 200 and 10 <= len(val) <= 60
    assert not set(groups[train]) & set(groups[val])


def test_a_folder_that_is_not_asked_for_or_lacking_is_a_usage_error() -> None:
    assert run("datasets", "check", "nyuv2")[0] == 2
    assert run("datasets", "check", "multidigits", "--root", ".")[0] == 2
    assert run("datasets", "check", "nyuv2", "--root", ".", "--set", "val_shar=0.1")[0] == 2
    assert run("datasets", "check", "multidigits") == (0, "multidigits: sound\n")
