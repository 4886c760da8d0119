"""Several fits that train together, and are finished one by one."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from sklpos.estimator.begin import begin_fit
from sklpos.estimator.build import start_net
from sklpos.estimator.checks import TrainingData
from sklpos.estimator.fit import Fit, evaluate, finish
from sklpos.estimator.parameters import net_params
from sklpos.estimator.prepared import fits_from
from sklpos.nets.hints import shown
from sklpos.nets.process import leaves_no_trace
from sklpos.training.contents import content_digest
from sklpos.training.joint.kinds import kind_of, why_alone
from sklpos.training.joint.loop import Trainee, train_together
from sklpos.training.loop import gradients_on
from sklpos.training.rows import TrainingRows
from sklpos.training.schedule import schedule_callbacks

# The only values with which nets can train together, and why.
_ONLY: dict[str, tuple[tuple, str]] = {
    "early_stopping": ((False,), "each net would end in an epoch of its own"),
    "warm_start": ((False,), "all fits of a search are new"),
    "callbacks": ((None, [], ()), "a callback sees the steps of one net"),
    "dtype": (("auto", "float32", "float64"), "autocast is for one net at a time"),
    "device": (("cpu",), "nets train together on the CPU only"),
}
# What changes the batches, or what happens in them.
_LOOP = (
    "callbacks__",
    "iterator_train__",
    "iterator_valid__",
    "dataset__",
    "compile__",
)
_SWITCHES = ("compile", "cuda_graph")


class Postponed(Exception):
    """A fit has begun, and is trained later."""


@dataclass(eq=False)
class BegunFit:
    """A fit up to where its training begins.

    Attributes
    ----------
    key : tuple of str
        Of its rows and of its estimator.
    estimator : PositiveOutputRegressor
        Without ``"auto"``.
    data : TrainingData
    rows : TrainingRows
    trainee : Trainee
    """

    key: tuple[str, str]
    estimator: Any
    data: TrainingData
    rows: TrainingRows
    trainee: Trainee

    def finished(self) -> Fit | Exception:
        """The fit after its training, or what ended it."""
        own, net = self.estimator, self.trainee.net
        if self.trainee.error is not None:
            return self.trainee.error
        try:
            fit = evaluate(own, net, self.rows, self.data, own.max_epochs)
            return finish(own, fit, self.data)
        # It ends this fit, as it would end it alone, but no other one.
        except Exception as error:
            return error


class JointFits:
    """Fits that begin one by one, train together, and are handed out.

    Parameters
    ----------
    begin_more : callable
        Calls the `fit` of some estimators, which raises `Postponed`; returns whether
        there were any.

    Attributes
    ----------
    refusal : ValueError or None
        Why one of them cannot train together with others.
    seconds : float
        That the fits took, from their beginning to their end.
    """

    def __init__(self, begin_more: Callable[[], bool]):
        self.begin_more = begin_more
        self.refusal: ValueError | None = None
        self.seconds = 0.0
        self._begins = False
        self._begun: list[BegunFit] = []
        self._done: dict[tuple[str, str], list[Fit | Exception]] = defaultdict(list)
        self._X: dict[tuple, tuple] = {}

    def fit(self, alone: Callable[[], Any], estimator: Any, *rows: Any, **more: Any):
        """Begin a fit, or hand out a finished one; see `FitSource`."""
        params = estimator.get_params(deep=False)
        key = content_digest([rows, more]), content_digest([type(estimator), params])
        if self._begins:
            self._begin(key, estimator, *rows, **more)
            raise Postponed
        while not self._done[key] and self.train_more():
            pass
        if not self._done[key]:
            # It failed before its training, and says why, or its rows are new.
            return alone()
        found = self._done[key].pop(0)
        if isinstance(found, Exception):
            raise found
        estimator.fitted_ = found
        return estimator

    def train_more(self) -> bool:
        """Begin further fits, train them together, and finish them.

        Returns
        -------
        bool
            False if there were none.

        Raises
        ------
        ValueError
            If one of them cannot train together with others.
        """
        start = time.time()
        self._begins = True
        try:
            with fits_from(self):
                found = self.begin_more()
        finally:
            self._begins = False
        try:
            if self.refusal is not None:
                raise self.refusal
            with fits_from(None), gradients_on():
                self._train()
        except ValueError as refusal:
            self.refusal = refusal
            raise
        self.seconds += time.time() - start
        return found

    def _begin(self, key: tuple, estimator: Any, *rows: Any, **more: Any) -> None:
        if self.refusal is not None:
            return
        with fits_from(None), gradients_on():
            own, data, _ = begin_fit(estimator, *rows, **more)
            net, split = start_net(own, data, None)
        self.refusal = _refusal(own, net, split)
        # Fits of the same rows hold them once, not the copies that a search makes.
        form = key[0], split.train.X.dtype
        X, split.train.X = self._X.setdefault(form, (data.X, split.train.X))
        data = replace(data, X=X)
        schedule = schedule_callbacks(own.lr_schedule, own.callbacks, own.max_epochs)
        trainee = Trainee(net, split.train, schedule)
        self._begun.append(BegunFit(key, own, data, split, trainee))

    @leaves_no_trace
    def _train(self) -> None:
        begun, self._begun, self._X = self._begun, [], {}
        for group in _groups(begun):
            trainees = [fit.trainee for fit in group]
            train_together(trainees, group[0].estimator.max_epochs)
            for fit in group:
                self._done[fit.key].append(fit.finished())


def _groups(fits: Iterable[BegunFit]) -> Iterable[list[BegunFit]]:
    """Fits of the same kind."""
    groups = defaultdict(list)
    for fit in fits:
        groups[kind_of(fit.trainee.net, fit.trainee.rows)].append(fit)
    return groups.values()


def _refusal(estimator: Any, net: Any, rows: TrainingRows) -> ValueError | None:
    if rows.valid is not None:
        return _refused("X_val", ..., "validation rows are for callbacks")
    reason = why_alone(net, rows.train)
    if reason is None:
        return None
    name, why = reason
    params = estimator.get_params(deep=False)
    return _refused(name, params.get(name, ...), why)


def check_joint_params(estimator: Any) -> None:
    """Refuse parameters with which an estimator cannot train together with others.

    Parameters
    ----------
    estimator : PositiveOutputRegressor

    Raises
    ------
    ValueError
        One sentence that names the parameter.
    """
    for name, (known, why) in _ONLY.items():
        value = getattr(estimator, name)
        if not any(value is one or value == one for one in known):
            raise _refused(name, value, why)
    for name, value in net_params(estimator).items():
        if name.startswith(_LOOP) or (name in _SWITCHES and value):
            raise _refused(name, value, "it changes the loop that all nets share")


def _refused(name: str, value: object, why: str) -> ValueError:
    given = name if value is ... else f"{name}={shown(value)}"
    return ValueError(
        f"{given} cannot be trained together with others, because {why}; "
        "use GridSearchCV."
    )
