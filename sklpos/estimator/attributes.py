"""Fitted attributes of the estimator, each of which is a part of its `Fit`."""

from __future__ import annotations

from operator import attrgetter

from sklpos.certificates.certificate import Certificate
from sklpos.estimator.pipelines import whole_model


def _fit_of(estimator):
    # An AttributeError, so that `hasattr` works as for any other estimator.
    if "fitted_" not in vars(estimator):
        name = type(estimator).__name__
        raise AttributeError(f"{name} is not fitted; call fit first.")
    return estimator.fitted_


def _fitted(path: str) -> property:
    """Fitted attribute, found along `path` from the `Fit`."""
    read = attrgetter(path)

    def attribute(self):
        return read(_fit_of(self))

    return property(attribute)


class _Seen:
    """Attribute that `fit` saw, which validation sets on copies of an estimator."""

    # Without `__set__`, so that the copy's own attribute comes first.
    def __set_name__(self, owner, name: str):
        self.name = name

    def __get__(self, estimator, owner):
        if estimator is None:
            return self
        seen = _fit_of(estimator).seen
        if self.name not in seen:
            name = type(estimator).__name__
            raise AttributeError(f"{name} has no {self.name}.")
        return seen[self.name]


class FittedAttributes:
    """The attributes of an estimator that has a `fitted_`, under their public names."""

    module_ = _fitted("ending.model.module")
    net_ = _fitted("net")
    strategy_ = _fitted("net.strategy_")
    multipliers_ = _fitted("multipliers")
    kkt_ = _fitted("kkt")
    repair_ = _fitted("ending.repair")
    loss_curve_ = _fitted("loss_curve")
    history_ = _fitted("net.history")
    optimizer_ = _fitted("net.optimizer_")
    criterion_ = _fitted("net.criterion_")
    callbacks_ = _fitted("net.callbacks_")
    n_iter_ = _fitted("n_iter")
    n_outputs_ = _fitted("n_outputs")
    n_features_in_ = _Seen()
    feature_names_in_ = _Seen()

    @property
    def certificate_(self) -> Certificate | None:
        """Certificate of the last repair on a domain, checked against this model."""
        return certificate_for(self, _fit_of(self))

    def __sklearn_is_fitted__(self):
        return hasattr(self, "fitted_")


def certificate_for(estimator, fit) -> Certificate | None:
    """Certificate of a fit, which looks at the model that the fit belongs to.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    fit : Fit
        Its present one, or the one that it had a moment ago.

    Returns
    -------
    Certificate or None
    """
    found = fit.ending.certificate
    # One of a pipeline looks at the whole pipeline, as long as there is one.
    if found is None or whole_model(found, estimator) is not None:
        return found
    return found.of(estimator)
