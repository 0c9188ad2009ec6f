"""The trained model of a finished trial, for use outside a study."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load
from torch import nn

from mtlfleet.errors import UsageError
from mtlfleet.plan.place import Root, is_object_storage
from mtlfleet.plan.trial import Trial
from mtlfleet.store import Store, open_store
from mtlfleet.store.artifacts import read_artifact
from mtlfleet.store.find import find_trial
from mtlfleet.train.build import Site, build_model

KEPT = """
SELECT t.config::VARCHAR AS config, a.uri, a.sha256 FROM trials t
LEFT JOIN artifacts a ON (a.study_id, a.trial_id) = (t.study_id, t.trial_id) AND a.kind = 'weights'
WHERE (t.study_id, t.trial_id) = (?, ?) ORDER BY a.attempt DESC LIMIT 1"""


def load_model(study: Root, trial: str, device: str = "cpu") -> nn.Module:
    """The model that validation chose in a final trial, in evaluation mode.

    ``study``: a study file, a store's folder or its URL; a file is needed where plug-ins are. ``trial``: the first
    characters of its id. The model is called as the trainer calls it, ``model(batch, Context())``, and gives an
    ``Output`` with the predictions of each task.

    Raises UsageError when no trial or several start so, or when its weights were not kept (``storage.weights``);
    StoreDamaged when they are not what was written.
    """
    store = open_store(study)
    found = find_trial(trial, [store.root])
    (row,) = store.rows(KEPT, [found.study, found.trial])
    if row["uri"] is None:
        raise UsageError(
            f"the weights of trial {found.trial} were not kept",
            notes=["kept are those of final trials that ran with `storage: {weights: final}`"],
        )
    model = build_model(Trial.from_json(row["config"]), _site(study, store, found.study), torch.device(device))
    model.load_state_dict(load(read_artifact(store.root, row["uri"], row["sha256"])))
    return model.eval()


def _site(study: Root, store: Store, name: str) -> Site:
    if is_object_storage(study) or not Path(study).is_file() or Path(study).suffix == ".duckdb":
        return Site(store.root, name)
    from mtlfleet.plan import Study  # what reads study files is not loaded on ranks

    asked = Study.load(Path(study))
    return Site(store.root, name, asked.plugins, asked.path.parent)
