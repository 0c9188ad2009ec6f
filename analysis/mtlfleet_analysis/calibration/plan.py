"""All experiments, goal by goal."""

from __future__ import annotations

from mtlfleet_analysis.calibration import looking, practices, rules, studies
from mtlfleet_analysis.calibration.findings import Experiment

CELLS = tuple((d, n) for d in (1, 3, 10) for n in (3, 5, 10, 20))
CORE = ((1, 10), (3, 5))
WHOLE = 2000  # studies of the experiments that judge whole studies, and so are the dearest


def experiments() -> tuple[Experiment, ...]:
    """Every experiment of the goals G1 to G14; G11 is in the tests against published values."""
    return (*_levels(), *_intervals(), *_answers(), *_looks(), *_fronts(), *_controls())


def _levels() -> list[Experiment]:
    found = []
    for d, n in CELLS:
        core = (d, n) in CORE
        found.append(Experiment(goal="G1", cell=f"{d},{n}", run=rules.false_positives(d, n), core=core))
        if d > 1:
            found.append(Experiment(goal="G2", cell=f"{d},{n}", run=rules.population(d, n), core=core))
        found.append(Experiment(goal="G3", cell=f"{d},{n}", run=rules.family(d, n), core=(d, n) == (1, 10)))
        joint = looking.together(d, n)
        found.append(Experiment(goal="G3", cell=f"{d},{n},max-T", run=joint, core=(d, n) == (3, 5)))
    return found


def _intervals() -> list[Experiment]:
    found = []
    for tau in (False, True):
        for d in (3, 5, 10) if tau else (1, 3, 5, 10):
            for n in (3, 5, 10, 20):
                for skew in (False, True):
                    run = rules.coverage(d, n, skew=skew, tau=tau)
                    core = (d, n) in CORE and not skew
                    found.append(Experiment(goal="G4", cell=f"{d},{n},{skew},{tau}", run=run, core=core))
    return found


def _answers() -> list[Experiment]:
    found = []
    for d, n in ((1, 10), (1, 20), (3, 5), (3, 10), (10, 5)):
        core = (d, n) == (3, 5)
        found.append(Experiment(goal="G5", cell=f"{d},{n}", run=rules.margins(d, n), core=core))
        found.append(Experiment(goal="G9", cell=f"{d},{n}", run=rules.verdicts(d, n), core=core))
    for d, n, effect, floor in ((1, 10, 1.0, 0.75), (3, 10, 0.5, 0.65), (10, 5, 0.5, 0.83)):
        run = rules.power(d, n, effect, floor)
        found.append(Experiment(goal="G10", cell=f"{d},{n},{effect}", run=run, core=d == 1))
    found.append(Experiment(goal="G10", cell="3,20,equivalence", run=rules.equivalence_power(3, 20, 0.5, 0.8)))
    for d, n, share in ((1, 10, 0.1), (1, 10, 0.2), (3, 5, 0.2), (3, 10, 0.1), (10, 5, 0.2)):
        core = (d, n, share) == (1, 10, 0.2)
        run = studies.divergence(d, n, share)
        found.append(Experiment(goal="G8", cell=f"{d},{n},{share}", run=run, most=WHOLE, core=core))
    found.append(Experiment(goal="G9", cell="whole", run=studies.whole_path(1, 8), most=WHOLE))
    found.append(Experiment(goal="G12", cell="whole", run=studies.metamorphic, most=WHOLE, core=True))
    found.append(Experiment(goal="G13", cell="", run=studies.speed, core=True))
    return found


def _looks() -> list[Experiment]:
    found = [Experiment(goal="G6", cell=f"{d},scheduled", run=looking.scheduled(d), core=d == 1) for d in (1, 3, 10)]
    return found + [Experiment(goal="G6", cell=f"{d},anytime", run=looking.anytime(d), core=d == 3) for d in (1, 3, 10)]


def _fronts() -> list[Experiment]:
    found = []
    for k in (5, 9, 17):
        for n in (5, 10, 20):
            for place in ("point", "between", "inside"):
                core = (k, n, place) == (5, 20, "between")
                run = looking.front(k, n, place)
                found.append(Experiment(goal="G7", cell=f"{k},{n},{place}", run=run, core=core))
    run = looking.front(9, 10, "beyond")
    return [*found, Experiment(goal="G7", cell="9,10,beyond", run=run, core=True)]


def _controls() -> list[Experiment]:
    found = [
        Experiment(goal="G14", cell=f"two,{d},{n}", run=practices.two_methods(d, n), core=(d, n) == (3, 3))
        for d, n in ((1, 3), (1, 10), (3, 3), (3, 10), (10, 3), (10, 10))
    ]
    found += [
        Experiment(goal="G14", cell=f"many,{d},{n}", run=practices.many_methods(d, n), core=(d, n) == (3, 5))
        for d, n in ((1, 5), (3, 5), (10, 10))
    ]
    found += [
        Experiment(goal="G14", cell=f"general,{d},{n}", run=practices.generalising(d, n), core=d == 5)
        for d, n in ((5, 10), (10, 20))
    ]
    found += [Experiment(goal="G14", cell=f"peek,{n}", run=practices.peeking(n), core=n == 20) for n in (10, 20, 40)]
    found += [
        Experiment(goal="G14", cell=f"choose,{k}", run=practices.choosing(k, 3, 5), core=k == 10) for k in (3, 10, 30)
    ]
    found += [
        Experiment(goal="G14", cell=f"equal,{n}", run=practices.no_difference_found(1, n), core=n == 5)
        for n in (3, 5, 10)
    ]
    return found
