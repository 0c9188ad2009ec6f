"""The Gram of one layer's gradients, for methods that watch norms at the last layer that tasks share."""

from __future__ import annotations

from mtlfleet.methods.base import Gram, OutOfDomain, TaskGradients


def layer_gram(method: str, grads: TaskGradients, layer: str) -> Gram:
    """[K, K] of the shared parameters of ``layer``: ``all`` of them, the ``last`` module that has any (in the order in
    which the model names its modules), or a module's name. Raises OutOfDomain for a name that is not there.
    """
    if layer == "all":
        return grads.gram()
    names, each = grads.grams("layer")
    wanted = names[-1] if layer == "last" else layer
    if wanted not in names:
        raise OutOfDomain(
            f"{method}: no shared parameters in a module called `{layer}`",
            notes=[f"modules with shared parameters: {', '.join(names)}"],
            help="name one of them, or use layer: last or layer: all",
        )
    return Gram(each[names.index(wanted)])
