"""The cost of a repair: what it changes on the training rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sklpos.certificates.certificate import Certificate
from sklpos.certificates.domains.shapes import All, Box
from sklpos.estimator.endings import Ending
from sklpos.estimator.pipelines import knows_steps
from sklpos.estimator.row_summary import RowSummary
from sklpos.nets.head import read_head
from sklpos.repair.summary import warn_of_change, warn_of_error


def summary_after(ending: Ending, as_trained: RowSummary) -> RowSummary | None:
    """Summarise the training rows under a new head, when only their moments are left.

    Parameters
    ----------
    ending : Ending
        With the new head.
    as_trained : RowSummary

    Returns
    -------
    RowSummary or None
        The error is exact; violations are NaN unless it is proved that there is none.
        None if the moments of the targets are not known, as in older files.
    """
    model, objective = ending.model, ending.objective
    if objective is None or objective.targets is None:
        return None
    head = read_head(model.module.get_submodule(model.head))
    proof = ending.certificate
    obeys = bool(proof) and _covers(proof, model.input_range)
    error = objective.root_mean_squared_error(head)
    return RowSummary.from_error(as_trained.n_samples, error, obeys=obeys)


def _covers(proof: Certificate, input_range: NDArray) -> bool:
    """Whether all training rows are known to be part of a proved domain."""
    domain = proof.domain_
    # That of a pipeline is not in the unit of the training rows.
    if isinstance(domain, Box) and not (domain.categorical or knows_steps(proof)):
        low, high = input_range
        return bool((domain.low <= low).all() and (high <= domain.high).all())
    return isinstance(domain, All)


def warn_of_balance(
    ending: Ending, as_trained: RowSummary, repaired: RowSummary
) -> None:
    """Warn if keeping a mean near a bound made the training error much larger.

    Parameters
    ----------
    ending : Ending
    as_trained, repaired : RowSummary
        Of the training rows.
    """
    before = as_trained.rmse
    # The warning blames the balance, so only balanced outputs may cause it.
    after = np.where(ending.repair.balanced_, repaired.rmse, before)
    why = "it keeps the mean of y, which is near a bound; balance=False costs less"
    warn_of_error(before, after, ending.model.scale, why=why)


def warn_of_cost(
    ending: Ending,
    as_trained: RowSummary,
    repaired: RowSummary | None,
    *,
    squared: bool,
) -> None:
    """Warn if the repair of a domain made the training error much larger.

    Parameters
    ----------
    ending : Ending
    as_trained : RowSummary
        Of the training rows.
    repaired : RowSummary or None
        None if it is not known.
    squared : bool
        Whether the criterion aims at the mean, so that squared errors measure what the
        net was trained for. Otherwise only the change of the predictions is known.
    """
    if repaired is None or ending.certificate is None:
        return
    why = (
        f"the bounds now hold for {ending.repair.promise_}; a smaller domain costs "
        "less, and so does strategy='certified'"
    )
    scale = ending.model.scale
    if squared:
        warn_of_error(as_trained.rmse, repaired.rmse, scale, why=why)
    else:
        warn_of_change(np.sqrt(ending.repair.cost_), scale, why=why)
