"""Fitted attributes of the estimator, each of which is a part of its `Fit`."""

from __future__ import annotations

from operator import attrgetter

from sklpos.certificates.certificate import Certificate
from sklpos.estimator.pipelines import whole_model


def _fitted(path: str) -> property:
    """Fitted attribute, found along `path` from the `Fit`."""
    read = attrgetter(path)

    def get(self):
        # An AttributeError, so that `hasattr` works as for any other estimator.
        if not hasattr(self, "fitted_"):
            name = type(self).__name__
            raise AttributeError(f"{name} is not fitted; call fit first.")
        return read(self.fitted_)

    return property(get)


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

    @property
    def certificate_(self) -> Certificate | None:
        """Certificate of the last repair on a domain, checked against this model."""
        found = self._ending_certificate
        # One of a pipeline looks at the whole pipeline, as long as there is one.
        if found is None or whole_model(found, self) is not None:
            return found
        return found.of(self)

    _ending_certificate = _fitted("ending.certificate")

    def __sklearn_is_fitted__(self):
        return hasattr(self, "fitted_")
