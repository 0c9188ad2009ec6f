"""Every diagnostic's code: what it means, why it is refused, an example; ``mtlfleet explain`` prints them."""

from __future__ import annotations

from collections.abc import Mapping

from mtlfleet.plan.claimcodes import CLAIM_CODES, Explanation

OTHER_CODES: Mapping[str, Explanation] = {
    "E100": Explanation(
        "the file cannot be read",
        "The study file is missing, a folder, or not readable by this user. Nothing else could be checked.",
        "mtlfleet validate jobs/studies/smoke.yaml",
    ),
    "E101": Explanation(
        "not plain text",
        "A study file is UTF-8 text without control characters. Bytes that are not text come from another "
        "encoding (UTF-16, Latin-1), from a truncated copy, or from a file that is no study at all.",
        "iconv -f latin1 -t utf-8 old.yaml > study.yaml",
    ),
    "E102": Explanation(
        "not valid YAML",
        "The file breaks off or is not YAML 1.2. The place is where the reader noticed, often just after "
        "the mistake: look for an unclosed bracket or quote, a tab, or a line that is indented differently "
        "from its siblings.",
        "methods: {ls: {use: linear}}   # each { has its }",
    ),
    "E103": Explanation(
        "duplicate key",
        "A map holds the same key twice. Many YAML readers keep the last one without a word, so that half "
        "of a study can vanish.",
        "methods:\n  ls: {use: linear}\n  ls_half: {use: linear, params: {weights: [0.5, 0.5]}}",
    ),
    "E104": Explanation(
        "unknown key",
        "The key is not one that this place accepts, usually a misspelling. It is refused rather than "
        "ignored: an ignored hyper-parameter would be run with its default and reported under the name you "
        "gave.",
        "cagrad: {use: cagrad, params: {c: 0.4}}   # mtlfleet methods show cagrad lists its parameters",
    ),
    "E105": Explanation(
        "wrong kind of value",
        "The value is not of the type or in the range that the key takes. Types are strict: `3` is no text, "
        '`"3"` no number, `300.0` no whole number.',
        "train: {lr: 1e-3, steps: 300}",
    ),
    "E106": Explanation(
        "missing key",
        "A key without a default is not given. Seeds, training length and margins have none: nobody but you "
        "can choose them.",
        "seeds: {count: 8, base: 2026}",
    ),
    "E107": Explanation(
        "not plain data",
        "YAML tags (`!!python/object`), directives and merge keys (`<<`) are refused. Tags can name code to "
        "run; merge keys are not part of YAML 1.2 and readers disagree about them. Anchors and aliases "
        "work.",
        "a: &recipe {lr: 1e-3}\nb: *recipe",
    ),
    "E108": Explanation(
        "too large",
        "A study file may have 1 MiB, 40 levels, 50,000 nodes after its aliases are written out, and 200 "
        "aliases. Real studies stay far below; files above are mistakes or attacks.",
        "seeds: {count: 1000}   # instead of a list of a thousand",
    ),
    "E109": Explanation(
        "not an id",
        "Names of studies, methods, datasets, architectures and claims become folder names, SQL values and "
        "figure labels, so they are lower-case letters, digits, `-` and `_`, start with a letter or digit "
        "and have at most 63 characters. A study has no `_`. Use `label:` for text that people read.",
        'cagrad: {use: cagrad, label: "CAGrad (ours)"}',
    ),
    "E110": Explanation(
        "environment variable",
        "`${env:NAME}` is filled in only where a place on a machine is meant: `storage.root` and a "
        "dataset's parameters `root`, `path`, `*_root`, `*_path`. Those never enter a trial's key. "
        "Elsewhere the same file would mean another study on another machine. The variable has to be set.",
        'storage: {root: "${env:RESULTS}/quickstart"}',
    ),
    "E111": Explanation(
        "not a finite number",
        "Infinity and not-a-number have no place in a study: they cannot be compared, and no trial could be "
        "trained with them.",
        "train: {clip_norm: 1.0}   # leave clip_norm out for no clipping",
    ),
    "E112": Explanation(
        "unknown schema version",
        "The first key says how the file is to be read. This mtlfleet reads mtlfleet/study/1.",
        "schema: mtlfleet/study/1",
    ),
    "E199": Explanation(
        "more errors",
        "At most twenty errors are shown at once. Mend these and validate again.",
        "mtlfleet validate study.yaml",
    ),
    "E301": Explanation(
        "unknown name",
        "`use:` names nothing that ships with mtlfleet or that the study's plug-ins declare. Without `use:` "
        "the id itself is looked up. `name@preset` chooses a source's convention.",
        "cagrad: {use: cagrad@nash}   # mtlfleet methods list",
    ),
    "E303": Explanation(
        "plug-in not found",
        "A plug-in is a file beside the study (./tilt.py) or an installed module (mylab.tilt). Nothing else "
        "is imported, and a plug-in is only read, not run, while the study is validated.",
        "plugins: [./tilt.py]",
    ),
    "E304": Explanation(
        "plug-in is not Python",
        "The plug-in's file does not parse. The message names its line.",
        "python -m py_compile tilt.py",
    ),
    "E305": Explanation(
        "a dataset cannot be used",
        "The dataset refused its parameters or could not find its files when asked for its facts (tasks, "
        "sizes, fingerprint).",
        "mtlfleet datasets show multidigits",
    ),
    "E306": Explanation(
        "a rule names what the study has not",
        "exclude, include and overrides speak of this study's ids. A rule that matches nothing would be "
        "silently without effect.",
        "exclude: [{method: stl, dataset: toy}]",
    ),
    "E401": Explanation(
        "tuning seed is a final seed",
        "A configuration that was chosen because it did well with seed s looks better than it is with seed "
        "s. Judging it on the same runs makes false findings likely, so the two lists must not overlap.",
        "seeds: {count: 8, base: 2026}\nsearch: {seeds: [901, 902], ...}",
    ),
    "E402": Explanation(
        "selection on the test split",
        "Checkpoints and configurations are chosen on validation; the test split is read once per selected "
        "checkpoint, at the end. Choosing the best epoch on test alone makes up differences where there are "
        "none.",
        "select: left.accuracy",
    ),
    "E403": Explanation(
        "selection on an unknown metric",
        "`select` is skill (mean over tasks, unit-free), delta_m, or a task.metric that every dataset of "
        "the study has.",
        "select: skill",
    ),
    "E404": Explanation(
        "weights and tasks differ in number",
        "Static weights have one entry per task of the dataset they are used on. Use `exclude` to keep such "
        "a method to the datasets it fits.",
        "ls: {use: linear, space: {weights: {simplex: {tasks: 2, points: 5}}}}",
    ),
    "E405": Explanation(
        "training length",
        "Exactly one of steps and epochs says how long a trial trains; an epoch is ceil(train size / global "
        "batch) steps.",
        "train: {steps: 300}",
    ),
    "E406": Explanation(
        "search space",
        "The distribution is empty, upside down or repeats a value, the axis cannot be searched, or it is "
        "also overridden. Common axes are train.* and architecture.*; a method's own hyper-parameters stand "
        "in its own `space`. Training length is not searched: every configuration gets the same compute.",
        "space: {train.lr: {log_uniform: [1e-4, 1e-2]}, architecture.dropout: {choice: [0, 0.2]}}",
    ),
    "E407": Explanation(
        "a space without a search",
        "A method has something to search, but the study does not say how many configurations and with which seeds.",
        "search: {trials_per_method: 6, seeds: [901]}",
    ),
    "E408": Explanation(
        "no trials, or too many",
        "`exclude` leaves nothing, or the grid has more than 200,000 trials. Split such a study.",
        "seeds: {count: 10}",
    ),
    "E409": Explanation(
        "GPUs per worker",
        "Ranks of one data-parallel trial each need a GPU of their own; only single-worker trials can share "
        "one. More than one GPU per worker comes in whole numbers.",
        "resources: {workers: 4, gpus_per_worker: 1}",
    ),
    "E410": Explanation(
        "a path that leads out",
        "Plug-in files lie beside the study, and a relative storage.root stays below its folder: a study "
        "taken from elsewhere must not read or write outside. An absolute storage.root is accepted, and so is "
        "s3://bucket/prefix; keys, regions and endpoints never stand in it, they come from AWS_* variables.",
        "storage: {root: runs/quickstart}",
    ),
    "E411": Explanation(
        "a seed twice",
        "The same seed gives the same run; counting it twice would count one observation as two.",
        "seeds: [1, 2, 3]",
    ),
    "E412": Explanation(
        "batch smaller than the number of workers",
        "The global batch is divided among the ranks; each needs at least one sample.",
        "train: {global_batch: 64}\nresources: {workers: 4}",
    ),
    "E413": Explanation(
        "two names for one configuration",
        "Two ids contain the same configuration, so their runs would have the same key and one run would "
        "count for two arms. Drop one, or take the shared value out of one of the spaces.",
        "cagrad: {use: cagrad, space: {c: {choice: [0.2, 0.6]}}}\ncagrad-default: {use: cagrad, params: {c: 0.4}}",
    ),
    "E414": Explanation(
        "two optimizers on one update",
        "Some methods (adatask) keep an optimizer's moments per task and make the update themselves. An adaptive "
        "optimizer after them, or momentum, would make another method of them.",
        "overrides:\n  - {when: {method: adatask}, set: {train.optimizer: sgd, train.momentum: 0}}",
    ),
    "E415": Explanation(
        "patience without a choice",
        "train.patience stops a trial after that many evaluations without a better checkpoint, and the best one is "
        "what it ends with. With keep: last it would end with a checkpoint that is known to be worse.",
        "train: {patience: 5, keep: best}",
    ),
    "E416": Explanation(
        "a convention that has no meaning here",
        "`heads` and `scale` of a method's entry change how its task weights are used: whether task parameters see "
        "them, and how long the update is. A method without weights has neither; one that looks at losses only "
        "knows no norm.",
        "cagrad: {heads: weighted, scale: sum_k}",
    ),
    "E417": Explanation(
        "decay without steps",
        "decay and decays belong to schedule: step, which multiplies the learning rate by decay at `decays` moments "
        "that cut the training into equal parts. The other schedules have nothing to set.",
        "train: {schedule: step, decay: 0.5, decays: 1}   # half the rate from half-time on",
    ),
    "W503": Explanation(
        "fewer configurations than asked for",
        "A method's whole space holds fewer distinct configurations than trials_per_method, so it is tuned "
        "less than the others.",
        "search: {space: {train.lr: {log_uniform: [1e-3, 1e-2]}}, trials_per_method: 6, seeds: [901]}",
    ),
    "W504": Explanation(
        "a plug-in's dataset is not looked into",
        "validate runs no plug-in code, so what depends on the dataset's tasks (metrics of claims, lengths "
        "of weights) is checked only by plan and launch, which import the dataset.",
        "mtlfleet plan study.yaml",
    ),
    "W505": Explanation(
        "a method trains on what it is chosen by",
        "A bilevel method (auto_lambda with val_source: val) fits its weights to the validation split, which then "
        "chooses its checkpoint and its configuration: its validation numbers are too good beside the others'. Test "
        "is untouched.",
        "auto_lambda: {params: {val_source: train_split}}",
    ),
    "W506": Explanation(
        "an installed plug-in cannot be read",
        "A package's entry point in the group mtlfleet.plugins names a module that is not there or is not Python. What "
        "it declares is unknown here; a study that names it is refused, with this reason.",
        "pip install --force-reinstall mylab   # or uninstall it",
    ),
}
CODES: Mapping[str, Explanation] = dict(sorted({**OTHER_CODES, **CLAIM_CODES}.items()))
