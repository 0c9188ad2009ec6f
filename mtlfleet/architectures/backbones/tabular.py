"""Tables whose first columns are categories."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlfleet.architectures.base import Backbone, Stage, backbone


class Embedded(nn.Module):
    """Each category a row of one table, found by hashing (column, category); then the numbers as they are."""

    def __init__(self, categories: int, rows: int, width: int) -> None:
        super().__init__()
        self.categories, self.rows = categories, rows
        self.table = nn.Embedding(rows, width)
        nn.init.normal_(self.table.weight, std=width**-0.5)
        self.register_buffer("salt", 1 + 2_654_435_761 * torch.arange(1, categories + 1) % 2**31)
        self.salt: Tensor

    def forward(self, x: Tensor) -> Tensor:
        ids = x[:, : self.categories].long()
        place = ((ids + 1) * 2_246_822_519 + self.salt * 3_266_489_917) % 2_147_483_647 % self.rows
        return torch.cat((self.table(place).flatten(1), x[:, self.categories :]), 1)


@backbone("tabular")
@dataclass(frozen=True, kw_only=True)
class Tabular(Backbone):
    """Embeddings of the first ``categories`` columns beside the other columns, then ``depth`` layers of ``width``.

    Categories are whole numbers of which 0 is one never seen in training; (column, category) pairs share ``rows`` rows
    of the table by hashing, so that no vocabulary has to be known (pairs that collide share an embedding).

    Shapes      ``[B, columns]`` -> ``[B, width]``.
    """

    width: int = 64
    depth: int = 2
    dropout: float = 0.0
    categories: int = 1
    rows: int = 16384
    embedding: int = 16

    def stages(self, input_shape: tuple[int, ...]) -> list[Stage]:
        """Raises ValueError for inputs that are no table, or have fewer columns than categories."""
        if len(input_shape) != 1 or not 1 <= self.categories <= input_shape[0]:
            raise ValueError(
                f"tabular with {self.categories} categories reads rows of at least as many columns, found inputs of "
                f"shape {list(input_shape)}"
            )
        entering = self.categories * self.embedding + input_shape[0] - self.categories
        found = [Stage(Embedded(self.categories, self.rows, self.embedding), (entering,))]
        for _ in range(self.depth):
            down = nn.Dropout(self.dropout) if self.dropout else None
            found.append(Stage(nn.Sequential(nn.Linear(entering, self.width), nn.ReLU()), (self.width,), down=down))
            entering = self.width
        return found
