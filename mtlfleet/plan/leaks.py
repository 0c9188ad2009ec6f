"""What a method or a recipe does with the validation split, beside choosing."""

from __future__ import annotations

from mtlfleet.plan.document import Loc
from mtlfleet.plan.draft import Draft


def check_validation(draft: Draft) -> None:
    """E415 where patience watches a choice that is not made; W505 where a method trains on what it is chosen by."""
    train = draft.shaped.model.train
    if train.patience is not None and train.keep == "last":
        draft.problems.add(
            "E415",
            "`patience` stops a trial for its best checkpoint, and `keep: last` throws that away",
            draft.document.value(("train", "patience")),
            caret="needs keep: best",
            help="leave `keep` out, or `patience`",
        )
    for name, method in draft.shaped.model.methods.items():
        entry = draft.entries.get(("method", name))
        if entry is None or not entry.traits.get("outer_batches"):
            continue
        preset = entry.presets.get((method.use or name).partition("@")[2], {})
        told = {**entry.defaults, **preset, **method.params}
        if told.get("val_source") == "val":
            at: Loc = ("methods", name)
            draft.problems.warn(
                "W505",
                f"method `{name}` trains its weights on the validation split, which also selects",
                draft.document.key(at),
                help="params: {val_source: train_split}",
            )
