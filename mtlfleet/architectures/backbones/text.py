"""Sentences as token ids."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlfleet.architectures.base import Backbone, Stage, backbone


class Bag(nn.Module):
    """The mean embedding of a text's tokens, and of each of two sides joined by elementwise difference and product."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, width)
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        ids = x.long()
        there = (ids > 0).to(self.table.weight.dtype)[..., None]
        found = self.table(ids % self.rows) * there
        mean: Tensor = found.sum(1) / there.sum(1).clamp(min=1)
        return mean


@backbone("bag")
@dataclass(frozen=True, kw_only=True)
class BagOfTokens(Backbone):
    """The mean of a text's token embeddings, then ``depth`` layers: for tests and machines without a language model.

    Shapes      token ids ``[B, L]``, 0 is padding -> ``[B, width]``.
    """

    width: int = 64
    depth: int = 1
    dropout: float = 0.0
    rows: int = 32768

    def stages(self, input_shape: tuple[int, ...]) -> list[Stage]:
        """Raises ValueError for inputs that are no token ids."""
        if len(input_shape) != 1:
            raise ValueError(f"bag reads token ids [length], found inputs of shape {list(input_shape)}")
        found = [Stage(Bag(self.rows, self.width), (self.width,))]
        for _ in range(self.depth):
            down = nn.Dropout(self.dropout) if self.dropout else None
            found.append(Stage(nn.Sequential(nn.Linear(self.width, self.width), nn.ReLU()), (self.width,), down=down))
        return found


class Encoder(nn.Module):
    """A transformers encoder: the first token's last hidden state."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        ids = x.long()
        found = self.model(input_ids=ids, attention_mask=(ids > 0).long())
        hidden: Tensor = found.last_hidden_state[:, 0]
        return hidden


@backbone("bert")
@dataclass(frozen=True, kw_only=True)
class Bert(Backbone):
    """A BERT-like encoder through transformers (``pip install mtlfleet[text]``); the first token stands for the text.

    Shapes      token ids ``[B, L]``, 0 is padding -> ``[B, hidden size]``. One stage.
    Source      Devlin et al., BERT, NAACL 2019.

    Parameters
    ----------
    weights_path:  a folder as ``save_pretrained`` writes it (config.json and safetensors); its sizes win over these.
                   Without one, weights are drawn. Nothing is ever downloaded.
    width, depth, attention, rows:  hidden size, layers, attention heads and vocabulary of drawn weights.
    """

    width: int = 128
    depth: int = 2
    dropout: float = 0.1
    attention: int = 2
    rows: int = 32768
    weights_path: str | None = None

    def stages(self, input_shape: tuple[int, ...]) -> list[Stage]:
        """Raises EnvironmentProblem without transformers or the folder, ValueError for inputs that are no token ids."""
        from pathlib import Path

        from mtlfleet.errors import EnvironmentProblem

        if len(input_shape) != 1:
            raise ValueError(f"bert reads token ids [length], found inputs of shape {list(input_shape)}")
        try:
            from transformers import AutoModel, BertConfig, BertModel
        except ImportError:
            raise EnvironmentProblem(
                "the backbone bert needs the package transformers", help="pip install 'mtlfleet[text]'"
            ) from None
        if self.weights_path:
            if not (Path(self.weights_path) / "config.json").is_file():
                raise EnvironmentProblem(f"there is no config.json in {self.weights_path}", help="never downloaded")
            model = AutoModel.from_pretrained(self.weights_path, local_files_only=True, dtype=torch.float32)
        else:
            config = BertConfig(
                vocab_size=self.rows, hidden_size=self.width, num_hidden_layers=self.depth,
                num_attention_heads=self.attention, intermediate_size=4 * self.width, pad_token_id=0,
                hidden_dropout_prob=self.dropout, attention_probs_dropout_prob=self.dropout,
                max_position_embeddings=max(64, input_shape[0]),
            )  # fmt: skip
            model = BertModel(config, add_pooling_layer=False)
        return [Stage(Encoder(model), (int(model.config.hidden_size),))]
