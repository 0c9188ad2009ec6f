"""A task's training loss, by its kind: the mean over the samples that carry the label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlfleet.plan.tasks import DENSE, Task

if TYPE_CHECKING:
    from mtlfleet.engine.contract import Batch


def aligned(prediction: Tensor, target: Tensor) -> Tensor:
    """``prediction`` in the shape of ``target``: [B, 1] is read as [B]. Raises ValueError when they do not fit."""
    if prediction.shape == target.shape:
        return prediction
    if prediction.shape == (*target.shape, 1):
        return prediction.squeeze(-1)
    raise ValueError(f"prediction {tuple(prediction.shape)} does not fit target {tuple(target.shape)}")


def sample_losses(task: Task, prediction: Tensor, target: Tensor) -> Tensor:
    """The loss of every element, not yet averaged.

    Classification: -log softmax; binary: -log sigmoid; regression: squared error.

    Parameters
    ----------
    prediction:  [B, classes, ...] for classification, else [B, ...] or [B, ..., 1].
    target:      int64 [B, ...] for classification, else float [B, ...].
    """
    match task.kind:
        case "classification":
            return F.cross_entropy(prediction, target, reduction="none")
        case "binary":
            return F.binary_cross_entropy_with_logits(aligned(prediction, target), target, reduction="none")
        case "regression":
            return F.mse_loss(aligned(prediction, target), target, reduction="none")
        case _:
            raise NotImplementedError(f"task {task.name} is of kind {task.kind!r}: its dataset must override `loss`")


def labelled(kind: str, target: Tensor) -> Tensor:
    """bool: which pixels of a dense target carry a label. -1, a depth that is not positive and finite, and the zero
    normal are none. (A normal whose components cancel is one: the test is "any component", not "their sum".)

    >>> labelled("normals", torch.tensor([0.7, -0.7, 0.0]).reshape(1, 3, 1, 1)).item()
    True
    """
    match kind:
        case "segmentation":
            return target >= 0
        case "depth":
            return (target > 0) & target.isfinite()
        case _:
            return (target != 0).any(1) & target.isfinite().all(1)


def dense_losses(task: Task, prediction: Tensor, target: Tensor) -> Tensor:
    """[B]: each sample's mean over its labelled pixels; 0 for a sample without any.

    Parameters
    ----------
    prediction:  [B, outputs, H, W]
    target:      segmentation int64 [B, H, W]; depth [B, 1, H, W]; normals [B, 3, H, W].
    """
    mask = labelled(task.kind, target)
    match task.kind:
        case "segmentation":
            each = F.cross_entropy(prediction, target, ignore_index=-1, reduction="none")
        case "depth":
            each = (prediction - torch.where(mask, target, torch.zeros_like(target))).abs()
        case _:
            each = 1 - F.cosine_similarity(
                prediction, torch.where(mask[:, None], target, torch.ones_like(target)), dim=1
            )
    kept = torch.where(mask, each, torch.zeros_like(each)).flatten(1).sum(1)
    return kept / mask.flatten(1).sum(1).clamp(min=1)


def mean_loss(task: Task, prediction: Tensor, batch: Batch) -> Tensor:
    """Mean over the present samples of each sample's mean loss; a batch without any gives 0 with a gradient path.

    What an absent sample carries as target (NaN, -1) is never read. Samples count alike, however many pixels they have
    labelled: so the mean does not depend on how ranks cut a batch. (MTAN's code pools the pixels of a batch.)
    """
    target = batch.targets[task.name]
    present = batch.present[task.name]
    mask = present.reshape(-1, *(1 for _ in target.shape[1:]))
    if task.kind in DENSE:
        each = dense_losses(task, prediction, torch.where(mask, target, torch.zeros_like(target)))
        return torch.where(present, each, torch.zeros_like(each)).sum() / present.sum().clamp(min=1)
    losses = sample_losses(task, prediction, torch.where(mask, target, torch.zeros_like(target)))
    each = losses.flatten(1).mean(1) if losses.dim() > 1 else losses
    return torch.where(present, each, torch.zeros_like(each)).sum() / present.sum().clamp(min=1)
