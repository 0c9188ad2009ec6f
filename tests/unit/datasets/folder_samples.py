"""Tiny folders in the true formats, one writer per dataset that lies on disk; each returns further parameters."""

from __future__ import annotations

import csv
import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mtlfleet import registry

RNG = np.random.RandomState


def mtan(root: Path, labels: dict[str, int], normals: bool, size: tuple[int, int], n: int = 12) -> None:
    rng = RNG(0)
    for part in ("train", "val"):
        kinds = ["image", *labels, "depth", *(["normal"] if normals else [])]
        for kind in kinds:
            (root / part / kind).mkdir(parents=True)
        for i in range(n if part == "train" else 4):
            np.save(root / part / "image" / f"{i}.npy", rng.rand(*size, 3).astype(np.float32))
            for kind, classes in labels.items():  # stored as floats, with -1; the last class never occurs
                np.save(root / part / kind / f"{i}.npy", rng.randint(-1, classes - 1, size).astype(np.float64))
            depth = rng.rand(*size, 1).astype(np.float32)
            depth[rng.rand(*size, 1) < 0.2] = 0
            np.save(root / part / "depth" / f"{i}.npy", np.zeros_like(depth) if i == 1 else depth)
            if normals:
                normal = rng.standard_normal((*size, 3)).astype(np.float32)
                normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
                normal[0, 0] = 0
                normal[1, 1] = [0.5**0.5, -(0.5**0.5), 0]
                np.save(root / part / "normal" / f"{i}.npy", normal)


def nyuv2(root: Path) -> dict[str, Any]:
    mtan(root, {"label": 13}, True, (16, 32))
    return {}


def cityscapes(root: Path) -> dict[str, Any]:
    mtan(root, {"label_7": 7, "label_19": 19, "label_2": 2}, False, (16, 32))
    return {}


def cityscapes_png(root: Path) -> dict[str, Any]:
    rng = RNG(0)
    for part, cities in (("train", ("aachen", "bochum", "bremen")), ("val", ("lindau",))):
        for city in cities:
            for kind in ("leftImg8bit", "gtFine", "disparity"):
                (root / kind / part / city).mkdir(parents=True)
            for i in range(4):
                name = f"{city}_{i:06d}_000019"
                pixels = rng.randint(0, 256, (16, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png")
                labels = rng.choice([0, 4, 7, 8, 11, 17, 21, 23, 24, 26, 33], (16, 32)).astype(np.uint8)
                Image.fromarray(labels).save(root / "gtFine" / part / city / f"{name}_gtFine_labelIds.png")
                disparity = rng.randint(0, 30000, (16, 32)).astype(np.uint16)
                disparity[:4] = 0
                Image.fromarray(disparity).save(root / "disparity" / part / city / f"{name}_disparity.png")
    return {"height": 8, "width": 16}


def idx(path: Path, array: np.ndarray) -> None:
    data = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


def multimnist(root: Path, seed: int = 0) -> dict[str, Any]:
    rng = RNG(seed)
    for part, n, ending in (("train", 90, ""), ("t10k", 30, ".gz")):
        idx(root / f"{part}-images-idx3-ubyte{ending}", rng.randint(0, 256, (n, 28, 28)).astype(np.uint8))
        idx(root / f"{part}-labels-idx1-ubyte{ending}", (np.arange(n) % 10).astype(np.uint8))
    return {"train": 60, "val": 20, "test": 24}


def celeba(root: Path) -> dict[str, Any]:
    rng = RNG(0)
    for place in ("Anno", "Eval", "Img/img_align_celeba"):
        (root / place).mkdir(parents=True)
    names = [f"Attribute_{k}" for k in range(39)] + ["Smiling"]
    files = [f"{i:06d}.jpg" for i in range(1, 25)]
    lines = [str(len(files)), " ".join(names) + " "]
    for i, file in enumerate(files):
        marks = rng.choice([-1, 1], 40)
        marks[39] = 1 if i % 3 else -1
        lines.append(file + " " + " ".join(f"{mark:2d}" for mark in marks))  # as published: two spaces before a 1
        pixels = rng.randint(0, 256, (22, 18, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "Img/img_align_celeba" / file)
    (root / "Anno/list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    parts = [f"{file} {0 if i < 12 else 1 if i < 18 else 2}" for i, file in enumerate(files)]
    (root / "Eval/list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    return {"size": 32}


def office(root: Path, domains: tuple[str, ...] = ("amazon", "dslr", "webcam")) -> dict[str, Any]:
    rng = RNG(0)
    for k, domain in enumerate(domains):
        folder = root / domain.replace("_", " ") / "back pack"
        folder.mkdir(parents=True)
        count = 0
        for split, n in (("train", 12 - 4 * (k % 3)), ("val", 4 - k % 3), ("test", 3 + k % 3)):
            lines = []
            for label in range(n):
                pixels = rng.randint(0, 256, (20, 24, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"frame_{count}.jpg")
                lines.append(f"{domain}/back pack/frame_{count}.jpg {label % 3}")
                count += 1
            (root / f"{domain}_{split}.txt").write_text("\n".join(lines) + "\n")
    return {"size": 32}


def molecules(n: int = 36) -> list[dict[str, np.ndarray]]:
    rng = RNG(0)
    found = []
    for i in range(n):
        atoms = 1 if i == 0 else int(rng.randint(2, 6))
        pairs = [(a, b) for a in range(atoms) for b in range(atoms) if abs(a - b) == 1]
        x = np.zeros((atoms, 11), np.float32)
        x[np.arange(atoms), rng.randint(0, 5, atoms)] = 1
        x[:, 5] = rng.randint(1, 9, atoms)
        y = rng.standard_normal((1, 19)).astype(np.float32)
        y[0, 5] = 2.5  # a target that never varies
        found.append({
            "x": x, "pos": rng.standard_normal((atoms, 3)).astype(np.float32),
            "edge_index": np.array(pairs, np.int64).reshape(-1, 2).T.copy(),
            "edge_attr": np.eye(4, dtype=np.float32)[rng.randint(0, 4, len(pairs))], "y": y,
        })  # fmt: skip
    return found


def qm9(root: Path) -> dict[str, Any]:
    rows = molecules()
    np.savez(
        root / "qm9.npz",
        **{k: np.concatenate([r[k] for r in rows], 1 if k == "edge_index" else 0) for k in rows[0]},  # type: ignore[arg-type]
        node_ptr=np.cumsum([0, *(len(r["x"]) for r in rows)]),
        edge_ptr=np.cumsum([0, *(r["edge_index"].shape[1] for r in rows)]),
    )
    return {}


def qm9_pyg(root: Path) -> dict[str, Any]:
    import torch

    (root / "raw").mkdir()
    rows = [{name: torch.from_numpy(array) for name, array in row.items()} for row in molecules()]
    torch.save(rows, root / "raw" / "qm9_v3.pt")
    return {}


def pawsx(root: Path) -> dict[str, Any]:
    words = {
        "en": 'the "red" car stands here',
        "zh": "红色的车在这里",
        "de": "das rote Auto steht hier",
        "es": "el coche rojo",
    }
    rng = RNG(0)
    for k, (language, text) in enumerate(words.items()):
        for part, n in (("train", 12 - 2 * k), ("dev", 4), ("test", 4 + k)):
            lines = ["sentence1\tsentence2\tlabel"]
            lines += [f"{text} {i}\t{text} {rng.randint(9)}\t{i % 2}" for i in range(n)]
            (root / f"{part}-{language}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"length": 24}


def aliexpress(root: Path) -> dict[str, Any]:
    rng = RNG(0)
    header = [
        "search_id",
        *(f"categorical_{k}" for k in range(16)),
        *(f"numerical_{k}" for k in range(3)),
        "click",
        "conversion",
    ]
    for part, n in (("train", 60), ("test", 20)):
        with (root / f"{part}.csv").open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(header)
            for i in range(n):
                unseen = 1000 if part == "test" and i == 0 else 0
                click = int(rng.rand() < 0.4)
                ids = [int(v) + unseen for v in rng.randint(0, 5, 16)]
                out.writerow([i // 4, *ids, *rng.rand(3).round(4), click, int(click and i % 3 == 0)])
    return {}


def census(root: Path) -> dict[str, Any]:
    from mtlfleet.datasets.census import CATEGORIES, NUMBERS

    rng = RNG(0)
    for part, n in (("data", 60), ("test", 20)):
        lines = []
        for i in range(n):
            row = ["0"] * 41
            for k in CATEGORIES:
                row[k] = str(rng.choice(["Private", "?", "Not in universe"]))
            for k in NUMBERS:
                row[k] = str(rng.randint(0, 90))
            row[7] = "Never married" if i % 3 else "Widowed"
            row[24] = "1700.09"
            lines.append(", ".join(row) + (", - 50000." if i % 4 else ", 50000+."))
        (root / f"census-income.{part}").write_text("\n".join(lines) + "\n")
    return {}


def sarcos(root: Path) -> dict[str, Any]:
    from scipy.io import savemat

    rng = RNG(0)
    savemat(root / "sarcos_inv.mat", {"sarcos_inv": rng.standard_normal((600, 28))})
    savemat(root / "sarcos_inv_test.mat", {"sarcos_inv_test": rng.standard_normal((40, 28))})
    return {}


WRITERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    f.__name__: f
    for f in (nyuv2, cityscapes, cityscapes_png, multimnist, celeba, office, qm9, pawsx, aliexpress, census, sarcos)
}

# A small network that suits each of them: parameters of an architecture.
NETWORKS: dict[str, dict[str, Any]] = {
    "nyuv2": {"backbone": "segnet", "width": 4, "depth": 2},
    "cityscapes": {"backbone": "segnet", "width": 4, "depth": 2},
    "cityscapes_png": {"backbone": "resnet", "width": 8, "depth": 18, "head": "deeplab", "head_hidden": 8},
    "multimnist": {"backbone": "cnn", "width": 16},
    "celeba": {"backbone": "resnet", "width": 8, "depth": 18},
    "office": {"backbone": "resnet", "width": 8, "depth": 18},
    "qm9": {"backbone": "gnn", "width": 8, "depth": 2, "backbone_params": {"hidden": 4}},
    "pawsx": {"backbone": "bag", "width": 16},
    "aliexpress": {"backbone": "tabular", "backbone_params": {"categories": 16, "rows": 256}},
    "census": {"backbone": "tabular", "backbone_params": {"categories": 32, "rows": 256}},
    "sarcos": {},
}

RECIPES = {  # file of jobs/studies -> variable of its folder -> writer
    "nyuv2_mtan": {"NYUV2": "nyuv2"},
    "cityscapes": {"CITYSCAPES": "cityscapes"},
    "celeba": {"CELEBA": "celeba"},
    "qm9": {"QM9": "qm9"},
    "office": {"OFFICE31": "office", "OFFICE_HOME": "office"},
    "multimnist": {"MNIST": "multimnist", "FASHION": "multimnist"},
}


def prepare_for_recipe(variable: str, name: str, root: Path) -> None:
    """Sample data as the recipe's own parameters expect them, so pictures are small only where the recipe says so."""
    root.mkdir()
    domains = ("Art", "Clipart", "Product", "Real_World") if variable == "OFFICE_HOME" else ("amazon", "dslr", "webcam")
    if name == "nyuv2":
        mtan(root, {"label": 13}, True, (32, 64))
    elif variable == "FASHION":
        multimnist(root, seed=1)
    elif name == "office":
        office(root, domains)
    else:
        WRITERS[name](root)
    params = {"variant": "office-home"} if variable == "OFFICE_HOME" else {}
    registry.build("dataset", name, root=str(root), **params).prepare()
