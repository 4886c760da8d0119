"""The models of ``benchmarks.league``: name, and a factory that takes a seed.

A model whose name ends in "clipped" has its predictions raised to 0 afterwards, as its
user would have to do.
"""

import numpy as np
from catboost import CatBoostRegressor
from lightgbm import LGBMRegressor
from pytabkit import RealMLP_TD_Regressor, TabM_D_Regressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import PoissonRegressor, RidgeCV, TweedieRegressor
from sklearn.neural_network import MLPRegressor
from xgboost import XGBRegressor

from sklpos import MLP, PositiveOutputRegressor


def mlp(**params):
    return lambda seed: PositiveOutputRegressor(MLP, random_state=seed, **params)


def sklearn_mlp(**params):
    return lambda seed: MLPRegressor(random_state=seed, **params)


def sklearn_boosting(**params):
    return lambda seed: HistGradientBoostingRegressor(random_state=seed, **params)


def lightgbm(**params):
    return lambda seed: LGBMRegressor(n_jobs=1, verbose=-1, random_state=seed, **params)


def xgboost(**params):
    return lambda seed: XGBRegressor(n_jobs=1, random_state=seed, **params)


def catboost(**params):
    # Without the last one, a fit leaves a folder behind.
    return lambda seed: CatBoostRegressor(
        thread_count=1,
        verbose=False,
        random_seed=seed,
        allow_writing_files=False,
        **params,
    )


def log_target(seed):
    return TransformedTargetRegressor(
        MLPRegressor(random_state=seed), func=np.log1p, inverse_func=np.expm1
    )


def tabkit(model):
    return lambda seed: model(device="cpu", n_threads=1, random_state=seed)


DEFAULT = "default"
# Our other strategies are shown, but take no place in the ranks.
VARIANTS = {
    "default, free and clipped": lambda seed: PositiveOutputRegressor(
        strategy="unconstrained", repair=None, random_state=seed
    ),
    "sklpos MLP, repaired": mlp(strategy="augmented_lagrangian"),
    "sklpos MLP, activation": mlp(strategy="activation"),
    "sklpos MLP, nonnegative_weights": mlp(strategy="nonnegative_weights"),
    "sklpos MLP, clipped": mlp(strategy="unconstrained", repair=None),
}
RIVALS = {
    "MLPRegressor, clipped": sklearn_mlp(),
    "MLPRegressor, early stopping, clipped": sklearn_mlp(early_stopping=True),
    "MLPRegressor, poisson": sklearn_mlp(loss="poisson"),
    "MLPRegressor, log1p, clipped": log_target,
    "ridge, clipped": lambda seed: RidgeCV(np.logspace(-3, 3, 13)),
    "poisson GLM": lambda seed: PoissonRegressor(max_iter=1000),
    "Tweedie GLM": lambda seed: TweedieRegressor(power=1.5, max_iter=1000),
    "HistGradientBoosting, clipped": sklearn_boosting(),
    "HistGradientBoosting, poisson": sklearn_boosting(loss="poisson"),
    "LightGBM, clipped": lightgbm(),
    "LightGBM, poisson": lightgbm(objective="poisson"),
    "XGBoost, clipped": xgboost(),
    "XGBoost, poisson": xgboost(objective="count:poisson"),
    "CatBoost, clipped": catboost(),
    "CatBoost, poisson": catboost(loss_function="Poisson"),
    # It keeps its predictions within the range of the training targets by itself.
    "RealMLP": tabkit(RealMLP_TD_Regressor),
    "TabM, clipped": tabkit(TabM_D_Regressor),
}
# A fit takes a minute or two: the first split only, and no place in the ranks.
SLOW = ("TabM, clipped",)
RANKED = (DEFAULT, *(name for name in RIVALS if name not in SLOW))
MODELS = {
    DEFAULT: lambda seed: PositiveOutputRegressor(random_state=seed),
    **VARIANTS,
    **RIVALS,
}
