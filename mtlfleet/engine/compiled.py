"""Compiled parts of a model under several backward passes: torch may have let the first one overwrite what it saved.

torch.compile's inductor plans so ("donated buffers") when the first backward pass through a part keeps no graph. torch
refuses a later pass that does keep it, but only while ``donated_buffer`` is on; with the flag off, code that was
compiled before and lies in the cache on disk is taken as it is (seen in torch 2.13), and every pass after the first is
silently wrong. So a compiled part is asked twice for the same gradient before it is trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mtlfleet.engine.backward import DONATED, Graph
from mtlfleet.engine.discovery import nodes
from mtlfleet.errors import EngineRefused

TOLERANCE = 1e-4  # kernels that add in any order differ by less, overwritten activations by more

_OUT = (
    "set torch._functorch.config.donated_buffer = False before anything is compiled, and start with "
    "TORCHINDUCTOR_FX_GRAPH_CACHE=0 or an empty TORCHINDUCTOR_CACHE_DIR; or leave that part uncompiled"
)


@contextmanager
def kept_graphs() -> Iterator[None]:
    """Passes inside need a graph again. Raises EngineRefused for a compiled part that gives its saved tensors away."""
    try:
        yield
    except RuntimeError as problem:
        if DONATED not in str(problem):
            raise
        raise EngineRefused(
            "a compiled part of the model gave its saved tensors away in a backward pass, and K passes need them",
            notes=["torch.compile arranges that if the first backward pass keeps no graph, as a plain loss.backward()"],
            help=_OUT,
        ) from problem


def compiled_parts(losses: Iterable[Tensor]) -> set[type]:
    """The compiled backward functions in these losses' graphs; each compilation has a type of its own."""
    return {type(node) for node in nodes(losses) if type(node).__name__ == "CompiledFunctionBackward"}


def refuse_overwritten(graph: Graph, parameters: Sequence[Tensor]) -> None:
    """Raise EngineRefused when a task's gradient is another one after a second task's was taken."""
    if len(graph.present) > 1:
        one, other = graph.present[:2]
        before = _fingerprint(graph.losses[one], parameters)
        _fingerprint(graph.losses[other], parameters)
        after = _fingerprint(graph.losses[one], parameters)
        if not torch.allclose(before, after, rtol=TOLERANCE, atol=TOLERANCE * float(before.max()), equal_nan=True):
            raise EngineRefused(
                "a compiled part of the model gives another gradient when it is asked a second time",
                notes=[
                    "its backward pass overwrites what it saved: it was compiled for a single pass, perhaps long ago"
                ],
                help=_OUT,
            )


def _fingerprint(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """[2 * parameters]: norm, and norm on a ramp, of each gradient; all of them need not be kept."""
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    told = []
    for gradient in found:
        if gradient is not None:
            flat = gradient.reshape(-1).float()
            ramp = torch.linspace(0.5, 1.0, flat.numel(), device=flat.device)
            told += [flat.norm(), (flat * ramp).norm()]
    return torch.stack(told).cpu() if told else torch.zeros(1)
