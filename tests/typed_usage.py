"""The public names as a typed program uses them: 'mypy --strict' has nothing to say."""

from pathlib import Path
from typing import assert_type

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sklpos
from sklpos import (
    MLP,
    STRATEGIES,
    ConstraintStrategy,
    PositiveOutputRegressor,
    TrainingCheckpoint,
    certify,
    report,
)
from sklpos.certificates import (
    Ball,
    Box,
    Certificate,
    Domain,
    Hull,
    RiskCertificate,
    bound_risk,
    certify_module,
    smallest_shift,
)
from sklpos.distributed import fit_data_parallel
from sklpos.estimator.report import Report
from sklpos.export.models import to_onnx, to_torch
from sklpos.metrics import (
    best_feasible,
    feasible_rmse_scorer,
    feasible_root_mean_squared_error,
    max_violation,
    mean_violation,
    violation_rate,
    violation_rate_scorer,
)
from sklpos.plotting import (
    ConstraintHistoryDisplay,
    PositivityDisplay,
    StrategyComparisonDisplay,
)
from sklpos.repair import Repair, RepairedHead, repair_head
from sklpos.training.callbacks import MultiplierAscent
from sklpos.training.decay import NoiseScaledDecay
from sklpos.training.kkt import KKTResiduals

X: NDArray[np.float64] = np.linspace(-1, 1, 99).reshape(-1, 1)
y: NDArray[np.float64] = np.maximum(X.ravel(), 0)


class Twice(ConstraintStrategy):
    """A strategy of one's own."""

    guarantee = "none"

    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return the term."""
        return 2 * torch.relu(violation)


def make(n_features_in: int, n_outputs: int) -> nn.Module:
    """Return a module of one's own."""
    return nn.Sequential(
        nn.Linear(n_features_in, 4), nn.ReLU(), nn.Linear(4, n_outputs)
    )


def fit() -> PositiveOutputRegressor:
    """Fit in every way."""
    model = PositiveOutputRegressor(
        MLP,
        strategy="augmented_lagrangian",
        lower_bound=[0.0],
        optimizer=torch.optim.Adam,
        max_epochs=2,
        callbacks__multiplier_ascent=MultiplierAscent(window=10),
        random_state=np.random.RandomState(0),
        module__hidden_layer_sizes=(8,),
    )
    assert_type(model.fit(X, y), PositiveOutputRegressor)
    model.fit(X, y, sample_weight=np.ones(len(X))).partial_fit(X, y)
    model.fit(X, y, X_val=X, y_val=y, sample_weight_val=np.ones(len(X)))
    assert_type(model.enforce(X, domain="box"), PositiveOutputRegressor)
    PositiveOutputRegressor(make, strategy=Twice(), random_state=0, warm_start=True)
    own = [TrainingCheckpoint("fit.ckpt"), NoiseScaledDecay(strength=2.0)]
    PositiveOutputRegressor(callbacks=own)
    PositiveOutputRegressor(make(1, 1), lower_bound=0.0, dtype="float32", device="cpu")
    params: dict[str, object] = model.get_params()
    return model.set_params(**params)


def use(model: PositiveOutputRegressor, file: Path) -> None:
    """Predict, certify, export."""
    predictions: NDArray[np.floating] = model.predict(X)
    print(violation_rate(predictions), max_violation(predictions, 0.0))
    certificate: Certificate = model.certify("hull", X=X)
    certificate = certify(model, ([0.0], [1.0]), time_limit=1.0)
    print(bool(certificate), certificate.proved_min_, sklpos.__version__)
    low, high = model.output_bounds(X, X + 1)
    radius: NDArray[np.float64] = model.certified_radius(X)
    risk: RiskCertificate = model.certify_risk(X, risk_level=0.1)
    risk = bound_risk(predictions, 0.0)
    assert_type(sklpos.enforce(model, X), PositiveOutputRegressor)
    risk = sklpos.certify_risk(model, X)
    low, high = sklpos.output_bounds(model, X, X)
    radius = sklpos.certified_radius(model, X)
    print(low, high, radius, risk, smallest_shift(predictions, 0.0))
    domains: list[Domain] = [Box([0.0], [1.0]), Hull(X), Ball(X, 0.1)]
    print([certify_module(model.module_, domain) for domain in domains])
    repaired: RepairedHead = repair_head(model.module_, X, y=y, lower_bound=[0.1])
    print(certify(repaired.module, X=X), repaired.repair.cost_, repaired.margin)
    rows = DataLoader(TensorDataset(torch.as_tensor(X)), batch_size=10)
    assert_type(repair_head(repaired.module, rows).module, nn.Module)
    assert_type(to_torch(model), nn.Sequential)
    to_onnx(model, file)


def fit_together() -> PositiveOutputRegressor:
    """Fit in a group of processes, which must be there when it is called."""
    return fit_data_parallel(PositiveOutputRegressor(random_state=0), X, y)


def see(model: PositiveOutputRegressor) -> None:
    """Report, score, draw."""
    found: Report = report(model, X, y)
    print(found.promise_, violation_rate_scorer(model, X), mean_violation(y))
    print(feasible_root_mean_squared_error(y, y), feasible_rmse_scorer(model, X, y))
    history = ConstraintHistoryDisplay(model.history_)
    rows = PositivityDisplay(y_pred=y, y_true=y, lower_bound=0.0)
    strategies = StrategyComparisonDisplay(["penalty"], y[:1], y[:1], tolerance=0.1)
    print(history, rows, strategies)


def look(model: PositiveOutputRegressor) -> None:
    """Read what was fitted."""
    module: nn.Module = model.module_
    strategy: ConstraintStrategy = model.strategy_
    multipliers: NDArray[np.float64] = model.multipliers_
    kkt: KKTResiduals | None = model.kkt_
    repair: Repair | None = model.repair_
    certificate: Certificate | None = model.certificate_
    losses: list[float] = model.loss_curve_
    print(module, strategy, multipliers, kkt, repair, certificate, losses)
    print(model.n_iter_ + model.n_outputs_ + model.n_features_in_, sorted(STRATEGIES))
    print(best_feasible(tolerance=0.1), MLP(3, 2).head)


if __name__ == "__main__":
    fitted = fit()
    use(fitted, Path("model.onnx"))
    see(fitted)
    look(fitted)
