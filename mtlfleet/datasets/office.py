"""Office-31 and Office-Home: the same objects in several domains, one task each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtlfleet.datasets.base import Split, Task, dataset
from mtlfleet.datasets.pictures import finding, picture
from mtlfleet.datasets.prepared import Pack, Prepared

DOMAINS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "office-31": (31, ("amazon", "dslr", "webcam")),
    "office-home": (65, ("Art", "Clipart", "Product", "Real_World")),
}


@dataset("office")
@dataclass(frozen=True, kw_only=True)
class Office(Prepared):
    """Name the object in a picture; each domain is a task with pictures of its own (31 or 65 classes).

    The folder holds LibMTL's lists ``<domain>_{train,val,test}.txt``, lines of ``relative/path.jpg label``, and the
    pictures. A folder named ``Real World`` is found where a list says ``Real_World``, and the other way round.

    Shapes      inputs, by domain, float32 ``[n, 3, size, size]``; targets int64 ``[n]``. Sample i has each domain's
                i-th picture; an epoch is as long as the largest domain, the others begin again.
    Source      Saenko et al., Adapting Visual Category Models to New Domains, ECCV 2010; Venkateswara et al., Deep
                Hashing Network for Unsupervised Domain Adaptation, CVPR 2017; lists of Lin & Zhang, LibMTL, JMLR 2023.

    Parameters
    ----------
    root:     the folder.
    variant:  ``office-31`` or ``office-home``.
    size:     pixels of a side after resizing; 224 in the source.
    """

    root: str
    variant: str = "office-31"
    size: int = 224

    def __post_init__(self) -> None:
        if self.variant not in DOMAINS:
            raise ValueError(f"office: variant is {' or '.join(DOMAINS)}, found {self.variant!r}")

    def _list(self, domain: str, split: Split) -> Path:
        return Path(self.root) / f"{domain}_{split.value}.txt"

    def _entries(self, domain: str, split: Split) -> list[tuple[Path, int]]:
        found = []
        for line in self._list(domain, split).read_text().splitlines():
            if line.strip():
                name, _, label = line.strip().rpartition(" ")
                found.append((self._picture(name), int(label)))
        return found

    def _picture(self, name: str) -> Path:
        path = Path(self.root) / name
        if path.is_file():
            return path
        first, *rest = Path(name).parts
        for other in (first.replace("_", " "), first.replace(" ", "_")):
            if (Path(self.root) / other).joinpath(*rest).is_file():
                return (Path(self.root) / other).joinpath(*rest)
        return path

    def findings(self) -> Iterator[str]:
        classes, domains = DOMAINS[self.variant]
        for domain in domains:
            for split in Split:
                file = self._list(domain, split)
                if not file.is_file():
                    yield f"{file}: missing"
                    continue
                try:
                    entries = self._entries(domain, split)
                except ValueError as error:
                    yield f"{file}: a line is not `path label`: {error}"
                    continue
                for path, label in entries:
                    if not 0 <= label < classes:
                        yield f"{file}: {path.name} has label {label}, expected 0 to {classes - 1}"
                    if (wrong := finding(path)) is not None:
                        yield wrong

    def pack(self) -> Mapping[Split, Pack]:
        _, domains = DOMAINS[self.variant]
        packs = {}
        for split in Split:
            inputs, targets = {}, {}
            for domain in domains:
                entries = self._entries(domain, split)
                pixels = np.empty((len(entries), 3, self.size, self.size), np.uint8)
                for place, (path, _) in enumerate(entries):
                    pixels[place] = picture(path, (self.size, self.size))
                inputs[domain.lower()] = pixels
                targets[domain.lower()] = np.array([label for _, label in entries], np.int64)
            packs[split] = Pack(inputs, targets)
        return packs

    def tasks_of(self, known: Mapping[str, Any]) -> tuple[Task, ...]:
        classes, domains = DOMAINS[self.variant]
        chance = known["chance"]
        return tuple(
            Task(d.lower(), classes, "classification", ("accuracy", "macro_f1"), chance[d.lower()]) for d in domains
        )
