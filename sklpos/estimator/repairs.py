"""Repairs of a fitted estimator: on rows, on a domain, for a share of a population."""

from __future__ import annotations

import copy
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from sklpos.estimator.fitted import make_domain, read_model
from sklpos.repair.head import repaired_product
from sklpos.repair.provable import provable_product
from sklpos.repair.shift import shifted_product
from sklpos.repair.summary import (
    summarise,
    summarise_change,
    warn_of_limits,
    warn_of_lost_balance,
)

_METHODS = ("head", "bias")


class EnforceMixin:
    """The repairs after `fit`, and `enforce` for more of them."""

    def enforce(
        self,
        X: ArrayLike | None = None,
        *,
        domain=None,
        method: str = "head",
        risk_level: float | None = None,
        confidence: float = 0.95,
        radius: ArrayLike | None = None,
        categorical=None,
        margin: float | None = None,
        time_limit: float = 10.0,
    ) -> Self:
        """Repair the head so that predictions obey the bound, in place.

        On the rows of X; or on a whole domain, provably, with the proof in
        `certificate_`; or for all but a share of a population. Each call starts from
        the head as trained ("head") or as it is ("bias"). It holds what this call asks
        for, and the rows that held earlier repairs up; for a promise on all training
        rows too, pass them stacked. No targets are needed. After `partial_fit` the
        nearest head is measured on X or a sample of the domain, and without balance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), optional
            Rows to protect; the rows of a "hull" or "ball"; with `risk_level`, a
            holdout, which is none for `certify_risk` afterwards.
        domain : {"box", "hull", "ball", "all"} or (low, high), optional
            As in `certify`; unit of X.
        method : {"head", "bias"}, default="head"
            The nearest head; or the smallest shift of the bias, which moves every
            prediction and gives up the mean.
        risk_level : float, optional
            With ``method="bias"``: shift until the probability that a new prediction
            is below the bound is at most this, with `confidence`.
        confidence : float, default=0.95
        radius, categorical, margin
            Of the domain, as in `certify`.
        time_limit : float, default=10.0
            Seconds for the repair of a domain: the longer, the nearer the head. What is
            found by then differs a little from run to run.

        Returns
        -------
        self
            Unchanged if the strategy's guarantee is ``"everywhere"``.

        Raises
        ------
        ValueError
            For a request that is not understood, or where no head does. What was
            fitted stays.
        """
        inputs = None if X is None else self._check_inputs(X)
        model = read_model(self)
        _check_request(inputs, domain, method, risk_level)
        with self._all_or_nothing(resume=True) as repaired:
            if domain is not None:
                region = make_domain(model, domain, X, radius, categorical, margin)
                how = {"method": method, "time_limit": time_limit}
                repaired._repair_domain(region, inputs, **how)
            elif self.strategy_.guarantee != "everywhere":
                if method == "bias":
                    repaired._shift(inputs, risk_level, confidence)
                else:
                    rows = np.arange(len(inputs)), len(inputs)
                    repaired._repair(inputs, *rows, promise=_rows_given(inputs))
            if self._training is not None and repaired.repair_ is not None:
                # the training rows are gone
                repaired._training = (self._training[0], None)
        return self

    def _repair(
        self,
        X,
        rows,
        n_samples: int,
        weights=None,
        features=None,
        promise="the training rows, by the repair",
    ) -> None:
        module, repair, margin = repaired_product(
            self.net_,
            X,
            self._objective,
            features=features,
            balance=self.balance,
            weights=weights,
            kept=self._kept,
        )
        balance = self.balance and self._objective is not None
        warn_of_limits(repair, balance=balance)
        self.net_.product_, self._kept = module, repair.kept
        self.repair_ = summarise(repair, margin, rows, n_samples, promise)
        self.certificate_ = None

    def _repair_domain(self, domain, X=None, *, n_samples: int = 0, **how) -> None:
        if self.strategy_.guarantee == "everywhere":
            self.certificate_ = self.certify(domain)
            return
        module, found = provable_product(
            self.net_,
            domain,
            self._objective,
            X=X,
            kept=self._kept,
            balance=self.balance,
            **how,
        )
        kept_so_far = self.balance and self._objective is not None
        if kept_so_far and how.get("method") != "bias":
            warn_of_lost_balance(found.balanced)
        n_samples = n_samples if X is None else len(X)
        self.net_.product_, self.certificate_ = module, found.certificate
        self.repair_ = summarise_change(
            found.cost,
            found.balanced,
            found.margin,
            n_samples,
            found.n_counterexamples,
            f"any input of {found.certificate.domain_!r}, proved",
        )

    def _shift(self, X, risk_level, confidence) -> None:
        module, shift = shifted_product(
            copy.deepcopy(self.module_),
            self.net_.head,
            X,
            self.net_.targets,
            risk_level=risk_level,
            confidence=confidence,
        )
        balanced = np.zeros_like(shift, dtype=bool)
        if self.repair_ is not None:
            balanced = self.repair_.balanced_ & (shift == 0)
        self.net_.product_, self.certificate_ = module, None
        promise = _rows_given(X)
        if risk_level is not None:
            share = f"{risk_level:.3g} of a population"
            promise = f"all but {share}, with confidence {confidence:.3g}"
        self.repair_ = summarise_change(
            shift**2, balanced, 0 * shift, len(X), 0, promise
        )


def _rows_given(X) -> str:
    return f"the {len(X):,} rows that enforce was given last"


def _check_request(X, domain, method, risk_level) -> None:
    if X is None and domain is None:
        raise ValueError("enforce needs X, rows to protect, or domain, such as 'box'.")
    if method not in _METHODS:
        raise ValueError(f"method={method!r} is unknown; choose one of {_METHODS}.")
    if risk_level is not None and (method != "bias" or domain is not None):
        raise ValueError(
            f"risk_level={risk_level!r} needs method='bias' and a holdout X, without "
            "a domain."
        )
