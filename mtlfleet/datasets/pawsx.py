"""PAWS-X of the XTREME benchmark: are two sentences paraphrases? In several languages."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtlfleet.datasets.base import Split, Task, dataset
from mtlfleet.datasets.prepared import Pack, Prepared
from mtlfleet.errors import EnvironmentProblem

PARTS = {Split.TRAIN: "train", Split.VAL: "dev", Split.TEST: "test"}
Row = tuple[str, str, int]
Tokens = Callable[[str, str], list[int]]
START, GAP, FIRST, HASHED = 1, 2, 3, 30_000


def hashed(one: str, two: str) -> list[int]:
    """Ids of words (and single signs of scripts without spaces) by hashing: needs no vocabulary.

    >>> hashed("a b", "A")[0], hashed("a b", "A")[1] == hashed("x", "A")[-2]
    (1, True)
    """
    found = [START]
    for text in (one, two):
        for word in re.findall(r"[⺀-鿿가-힯]|[^\W⺀-鿿가-힯]+", text.lower()):
            place = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big")
            found.append(FIRST + place % HASHED)
        found.append(GAP)
    return found


def tokenizer(path: str | None) -> Tokens:
    """Pairs of sentences -> ids, by ``tokenizer.json`` of a folder, or hashed without one."""
    if path is None:
        return hashed
    file = Path(path) / "tokenizer.json"
    if not file.is_file():
        raise EnvironmentProblem(f"there is no {file}", help="save a fast tokenizer there; nothing is downloaded")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise EnvironmentProblem("tokenizer_path needs tokenizers", help="pip install 'mtlfleet[text]'") from None
    loaded = Tokenizer.from_file(str(file))
    return lambda one, two: list(loaded.encode(one, two).ids)


@dataset("pawsx")
@dataclass(frozen=True, kw_only=True)
class PawsX(Prepared):
    """Tell paraphrases from look-alikes in four languages or more: a language is a task with texts of its own.

    The folder holds XTREME's ``{train,dev,test}-<language>.tsv`` with a header and the columns sentence1, sentence2 and
    label, or ``.parquet`` files of the same names with columns of these names.

    Shapes      inputs, by language, int64 token ids ``[n, length]``, 0 is padding; targets float32 ``[n]`` in {0, 1}.
    Source      Yang et al., PAWS-X, EMNLP 2019; Hu et al., XTREME, ICML 2020; as a multi-task problem in LibMTL.

    Parameters
    ----------
    root:            the folder.
    languages:       of en, zh, de, es, fr, ja, ko.
    length:          tokens kept of a pair.
    tokenizer_path:  a folder with ``tokenizer.json`` (of the encoder that will read the ids); without one, words are
                     hashed.
    """

    root: str
    languages: tuple[str, ...] = ("en", "zh", "de", "es")
    length: int = 128
    tokenizer_path: str | None = None

    def _file(self, split: Split, language: str) -> Path:
        stem = Path(self.root) / f"{PARTS[split]}-{language}"
        parquet = stem.with_suffix(".parquet")
        return parquet if parquet.is_file() else stem.with_suffix(".tsv")

    def rows(self, split: Split, language: str) -> list[Row]:
        """(sentence, sentence, label). Raises EnvironmentProblem with file and line for a row that is not such."""
        path = self._file(split, language)
        found = []
        for number, row in enumerate(_table(path), 2):
            if len(row) != 3 or row[2] not in ("0", "1"):
                raise EnvironmentProblem(
                    f"{path}:{number}: expected two sentences and a label 0 or 1, found {row[2:]!r}"
                )
            found.append((row[0], row[1], int(row[2])))
        return found

    def findings(self) -> Iterator[str]:
        for language in self.languages:
            for split in Split:
                path = self._file(split, language)
                if not path.is_file():
                    yield f"{path}: missing"
                    continue
                try:
                    if not self.rows(split, language):
                        yield f"{path}: no rows"
                except (EnvironmentProblem, UnicodeDecodeError) as error:
                    yield str(error)

    def pack(self) -> Mapping[Split, Pack]:
        tokens = tokenizer(self.tokenizer_path)
        packs = {}
        for split in Split:
            inputs, targets = {}, {}
            for language in self.languages:
                rows = self.rows(split, language)
                ids = np.zeros((len(rows), self.length), np.int32)
                for place, (one, two, _) in enumerate(rows):
                    kept = tokens(one, two)[: self.length]
                    ids[place, : len(kept)] = kept
                inputs[language], targets[language] = ids, np.array([label for *_, label in rows], np.float32)
            packs[split] = Pack(inputs, targets)
        return packs

    def describe(self, packs: Mapping[Split, Pack]) -> dict[str, Any]:
        shares = {name: float(y.mean()) for name, y in packs[Split.TRAIN].targets.items()}
        return {"chance": {name: max(share, 1 - share) for name, share in shares.items()}}

    def tasks_of(self, known: Mapping[str, Any]) -> tuple[Task, ...]:
        return tuple(Task(n, 1, "binary", ("accuracy", "f1", "auc"), known["chance"][n]) for n in self.languages)


def _table(path: Path) -> list[list[str]]:
    """Rows of (sentence1, sentence2, label) as text; other columns are left out by name."""
    names = ("sentence1", "sentence2", "label")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path, columns=list(names)).to_pydict()
        return [[str(table[name][i]) for name in names] for i in range(len(table["label"]))]
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    places = [lines[0].index(name) if lines and name in lines[0] else k for k, name in enumerate(names)]
    return [[row[k] for k in places if k < len(row)] for row in lines[1:] if row]
