"""Convolutions as products of two factors: A is the unfolded input, a row for each sample and position of the output.

One row per sample would not do: products of different samples' gradients count too, so the overlap of all rows with all
rows is needed. It pays for late convolutions, with few positions and many channels.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mtlfleet.engine.layers import Layer


class Convolution(Layer):
    """``nn.Conv1d`` or ``nn.Conv2d`` without groups: A [B * L, C * kernel] for L positions of the output.

    The other padding modes than zeros are laid around the input first, as the layer does itself.
    """

    def __init__(self, name: str, module: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__(name, module)
        self._of = module
        self.d_out = module.out_channels
        self.d_in = module.weight[0].numel()
        self._axes = len(module.kernel_size)

    @classmethod
    def of(cls, name: str, module: nn.Conv1d | nn.Conv2d) -> Layer | None:
        """None where a group of outputs reads some of the inputs only: such a layer's gradient is taken directly."""
        return cls(name, module) if module.groups == 1 else None

    @property
    def unfolding(self) -> int:
        return 0 if self._pointwise else self.d_in

    @property
    def _pointwise(self) -> bool:
        conv = self._of
        return all(k == 1 for k in conv.kernel_size) and all(s == 1 for s in conv.stride) and not any(self._margins())

    def _margins(self) -> list[int]:
        """(before, after) of each axis, the last axis first: what is laid around the input."""
        conv, found = self._of, []
        for axis in reversed(range(self._axes)):
            if isinstance(conv.padding, str):
                both = conv.dilation[axis] * (conv.kernel_size[axis] - 1) if conv.padding == "same" else 0
                found += [both // 2, both - both // 2]
            else:
                found += [conv.padding[axis]] * 2
        return found

    def rows(self, outputs: Tensor) -> int:
        return outputs.numel() // self.d_out

    def factor(self, inputs: Tensor) -> Tensor:
        conv: Any = self._of
        if inputs.dim() == self._axes + 1:  # one sample, without a batch's dimension
            inputs = inputs.unsqueeze(0)
        if self._pointwise:
            return inputs.movedim(1, -1).reshape(-1, self.d_in)
        margins = self._margins()
        if any(margins):
            mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
            inputs = F.pad(inputs, margins, mode=mode)
        kernel, dilation, stride = conv.kernel_size, conv.dilation, conv.stride
        if self._axes == 1:  # a picture of one line
            inputs, kernel, dilation, stride = inputs.unsqueeze(2), (1, *kernel), (1, *dilation), (1, *stride)
        found = F.unfold(inputs, kernel, dilation=dilation, stride=stride)  # [B, C * kernel, L]
        return found.transpose(1, 2).reshape(-1, self.d_in)

    def spread(self, gradient: Tensor, into: Tensor) -> None:
        channel = gradient.dim() - self._axes - 1
        moved = gradient.movedim(channel, -1)
        into.view(moved.shape).copy_(moved)
