"""Message passing over small molecules."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlfleet.architectures.base import Backbone, Stage, backbone

ATOM = 11  # features of an atom in QM9 as PyTorch Geometric gives them
BONDS = 4


class Unfold(nn.Module):
    """[B, A, 14 + A] -> atoms [B, A, width], edges [B, A, A, 5] (bond kinds, distance), pairs of atoms [B, A, A]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(ATOM, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        atoms, places, bonds = x[..., :ATOM], x[..., ATOM : ATOM + 3], x[..., ATOM + 3 :]
        there = atoms.abs().sum(-1, keepdim=True) > 0
        pairs = (there & there.transpose(1, 2)) & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        kinds = torch.stack([bonds == kind for kind in range(1, BONDS + 1)], -1).to(x.dtype)
        gap = places[:, :, None] - places[:, None]
        distance = (gap.square().sum(-1, keepdim=True) + 1e-12).sqrt()
        edges = torch.cat((kinds, distance), -1) * pairs[..., None]
        return torch.relu(self.embed(atoms)) * there, edges, pairs.to(x.dtype)


class Round(nn.Module):
    """One round of messages: an atom's mean over the others of A(edge) h, then a gated recurrent update."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(BONDS + 1, hidden), nn.ReLU(), nn.Linear(hidden, width * width))
        self.root = nn.Linear(width, width)
        self.update = nn.GRUCell(width, width)
        self.width = width

    def forward(self, h: Tensor, edges: Tensor, pairs: Tensor) -> Tensor:
        B, A, _ = h.shape
        # sum_j A(e_ij) h_j without holding an [A, A, width, width] tensor: the second layer is linear in its units.
        units = self.gate[1](self.gate[0](edges))  # [B, A, A, hidden]
        last = self.gate[2]
        assert isinstance(last, nn.Linear)
        maps = last.weight.view(self.width, self.width, -1)
        heard = torch.einsum("bijk,bij,bjc->bikc", units, pairs, h)
        message = torch.einsum("bikc,dck->bid", heard, maps)
        message = message + torch.einsum("bij,bjc,dc->bid", pairs, h, last.bias.view(self.width, self.width))
        count = pairs.sum(-1, keepdim=True).clamp(min=1)
        message = torch.relu(message / count + self.root(h))
        after: Tensor = self.update(message.reshape(B * A, -1), h.reshape(B * A, -1))
        return after.view(B, A, -1)


class MessagePassing(nn.Module):
    """Embed atoms, ``rounds`` rounds with the same weights, then a softmax-weighted mean and a mean over atoms."""

    def __init__(self, width: int, rounds: int, hidden: int) -> None:
        super().__init__()
        self.unfold = Unfold(width)
        self.round = Round(width, hidden)
        self.rounds = rounds
        self.score = nn.Linear(width, 1)
        self.out = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        h, edges, pairs = self.unfold(x)
        there = x[..., :ATOM].abs().sum(-1, keepdim=True) > 0
        for _ in range(self.rounds):
            h = self.round(h, edges, pairs)
        h = h * there
        weight = torch.softmax(self.score(h).masked_fill(~there, -1e9), 1) * there
        mean = h.sum(1) / there.sum(1).clamp(min=1)
        found: Tensor = self.out(torch.cat(((weight * h).sum(1), mean), 1))
        return found


@backbone("gnn")
@dataclass(frozen=True, kw_only=True)
class GNN(Backbone):
    """Edge-conditioned messages between all pairs of a molecule's atoms, ``depth`` rounds, pooled to one vector.

    Shapes      ``[B, A, 14 + A]``: 11 atom features, 3 coordinates, bond kinds 0-4 to the A atoms; absent atoms are
                zeros -> ``[B, width]``. One stage.
    Source      Gilmer et al., Neural Message Passing for Quantum Chemistry, ICML 2017, in the form of PyTorch
                Geometric's example that Nash-MTL (Navon et al., ICML 2022) trains on QM9: width 64, edge net
                5-128-4096, 3 rounds.
    Departures  A softmax-weighted mean beside a plain mean over atoms, where the source has Set2Set with three steps.
    """

    width: int = 64
    depth: int = 3
    dropout: float = 0.0
    hidden: int = 128

    def stages(self, input_shape: tuple[int, ...]) -> list[Stage]:
        """Raises ValueError for inputs that are not molecules in this layout."""
        if len(input_shape) != 2 or input_shape[1] != ATOM + 3 + input_shape[0]:
            raise ValueError(f"gnn reads molecules [A, 14 + A], found inputs of shape {list(input_shape)}")
        down = nn.Dropout(self.dropout) if self.dropout else None
        return [Stage(MessagePassing(self.width, self.depth, self.hidden), (self.width,), down=down)]
