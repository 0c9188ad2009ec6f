"""The smallest study there is, for tests that need a study file and run nothing of it."""

from __future__ import annotations

STUDY = """\
schema: mtlfleet/study/1
study: s
methods: {ls: {use: linear}}
datasets: {synth: {use: synthetic_regression}}
architectures: {mlp: {use: hps, params: {backbone: mlp}}}
seeds: [1]
train: {steps: 4}
"""
