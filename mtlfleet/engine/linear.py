"""Linear layers as products of two factors: A is the input, a row for each vector that the layer sees."""

from __future__ import annotations

from torch import Tensor, nn

from mtlfleet.engine.layers import Layer


class Linear(Layer):
    """``nn.Linear``: A [R, d_in] is what went in, all leading dimensions made one."""

    def __init__(self, name: str, module: nn.Linear) -> None:
        super().__init__(name, module)
        self.d_in, self.d_out = module.in_features, module.out_features

    def rows(self, outputs: Tensor) -> int:
        return outputs.numel() // self.d_out

    def factor(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(-1, self.d_in)

    def spread(self, gradient: Tensor, into: Tensor) -> None:
        into.copy_(gradient.reshape(into.shape))
