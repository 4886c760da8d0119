"""Repairs of fitted models on request, pipelines and searches included."""

from __future__ import annotations

from typing import TypeVar

from numpy.typing import ArrayLike
from torch import nn

from sklpos.certificates.domains.named import make_domain
from sklpos.certificates.domains.shapes import Domain
from sklpos.estimator import fit
from sklpos.estimator.fitted import rows_behind
from sklpos.estimator.parameters import stand_in
from sklpos.estimator.repairs import ADJUSTED, Request
from sklpos.estimator.target_steps import behind_targets
from sklpos.estimator.turns import turn
from sklpos.nets.bounded import as_bounded_model
from sklpos.nets.hints import shown
from sklpos.nets.process import leaves_no_trace
from sklpos.nets.rules import Number, OneOf, check_rules
from sklpos.nets.warnings import warn_user
from sklpos.repair.shift import Risk
from sklpos.training.loop import gradients_on

Model = TypeVar("Model")
_RULES = {"adjust": OneOf(ADJUSTED), "time_limit": Number(infinite=True)}


@leaves_no_trace
def enforce(
    model: Model,
    X: ArrayLike | None = None,
    *,
    domain=None,
    adjust: str = "head",
    risk_level: float | None = None,
    confidence: float = 0.95,
    radius: ArrayLike | None = None,
    categorical=None,
    margin: float | None = None,
    time_limit: float = 10.0,
    method: str = "deprecated",
) -> Model:
    """Repair the head of a model so that predictions obey the bounds, in place.

    The bounds then hold on the rows of X; or on a whole domain, with the proof in
    `certificate_`; or for all but a share of a population. Each call starts from
    the head as trained ("head") or as it is ("bias"). The result obeys the bounds
    where this call asks for it, and on the rows that determined earlier repairs;
    for a promise on all training rows as well, stack them onto X. No targets are
    needed. After `partial_fit` the nearest head is the one nearest on X or on a
    sample of the domain, without balance.

    In a Pipeline, the regressor is repaired. X and the domain are in the unit of the
    data that the pipeline takes: rows pass through any transformers, and the steps that
    a domain may pass are those of `certify`. A repair by `fit` holds on the rows that
    the regressor saw. Where ``fit_transform`` of a step differs from its
    ``transform``, as that of ``TargetEncoder`` does, ``predict`` passes it others for
    the training data: ``enforce(model, X)`` makes the bounds hold on these.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, TransformedTargetRegressor or search
        Fitted. Of a search, its best estimator is repaired. The bounds of a regressor
        behind a transform of y are in the transformed unit; its domain is enforced by
        passing ``regressor_``.
    X : array-like or sparse matrix of shape (n_samples, n_features), optional
        Rows to protect; the rows of a "hull" or "ball"; with `risk_level`, a
        holdout, which `certify_risk` cannot use again afterwards.
    domain : {"box", "hull", "ball", "all"} or (low, high), optional
        As in `certify`; unit of X.
    adjust : {"head", "bias"}, default="head"
        The nearest head; or the smallest shift of the bias, which moves every
        prediction and gives up the mean.
    risk_level : float, optional
        With ``adjust="bias"``: shift until the probability that a new prediction
        is out of bounds is at most this, with `confidence`; not for an output with
        both bounds.
    confidence : float, default=0.95
    radius, categorical, margin : object, optional
        Of the domain, as in `certify`.
    time_limit : float, default=10.0
        Seconds for the repair of a domain: the longer, the nearer the head. The
        result differs a little from run to run.
    method : {"head", "bias"}
        Earlier name of `adjust`, which will be removed in the next version.

    Returns
    -------
    model
        Itself; unchanged if the strategy's guarantee is ``"everywhere"``.

    Raises
    ------
    ValueError
        For an invalid request, or if no head obeys the bounds. The fitted model
        then stays as it was.
    """
    if isinstance(model, nn.Module):
        raise ValueError(
            "enforce takes a fitted estimator; for a module, call "
            "sklpos.repair.repair_head."
        )
    regressor = behind_targets(model)[1]
    adjust = _adjusted(adjust, method)
    if isinstance(X, str | Domain):
        raise ValueError(
            f"X={shown(X)} is a domain, not rows; write domain={shown(X)}."
        )
    _check_request(X, domain, adjust, risk_level, time_limit)
    shape = {"radius": radius, "categorical": categorical, "margin": margin}
    if domain is None:
        _refuse_without_domain(shape)
    risk = None if risk_level is None else Risk(risk_level, confidence)
    with turn(regressor, "enforce"), gradients_on():
        rows = None if X is None else rows_behind(model, X, "enforce")[1]
        data = None
        if domain is not None:
            data = as_bounded_model(model)
            domain = make_domain(data, domain, X=X, **shape)
        request = Request(rows, domain, adjust, risk, time_limit, data)
        made = fit.enforce(stand_in(regressor), regressor.fitted_, request)
        if domain is not None:
            # From now on, the proof looks at the whole model.
            made.ending.certificate.of(model)
        # One assignment at the end: an interrupted repair changes nothing.
        regressor.fitted_ = made
    return model


def _adjusted(adjust: str, method: str) -> str:
    if method == "deprecated":
        return adjust
    warn_user(
        f"method={method!r} of enforce is now called adjust; the old name will be "
        "removed in the next version.",
        FutureWarning,
    )
    return method


def _refuse_without_domain(shape: dict) -> None:
    # The promise for rows alone would be weaker than the one that was asked for.
    for name, value in shape.items():
        if value is not None:
            raise ValueError(
                f"{name}={shown(value)} describes a domain; write domain='ball' or "
                "another domain as well."
            )


def _check_request(
    X, domain, adjust: str, risk_level: float | None, time_limit: float
) -> None:
    check_rules({"adjust": adjust, "time_limit": time_limit}, _RULES)
    if X is None and domain is None:
        raise ValueError("enforce needs X, rows to protect, or domain, such as 'box'.")
    if risk_level is not None and (adjust != "bias" or domain is not None):
        raise ValueError(
            f"risk_level={shown(risk_level)} needs adjust='bias' and a holdout X, "
            "without a domain."
        )
