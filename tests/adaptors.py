"""The estimator under the names that the tests of scikit-learn and skorch expect."""

from unittest.mock import patch

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import NotFittedError
from skorch.dataset import Dataset, ValidSplit
from torch import nn

from sklpos import MLP, PositiveOutputRegressor
from sklpos.training.net import ConstrainedNet

VALID_SPLIT = ValidSplit(5)
SOLVERS = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "lbfgs": torch.optim.LBFGS,
}


class LikeMLPRegressor(RegressorMixin, BaseEstimator):
    """Named as ``MLPRegressor``; without a bound, which that one does not have."""

    def __init__(
        self,
        loss="squared_error",
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
    ):
        for name, value in locals().items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    def _n_epochs(self):
        # Only validation rows end training early: all of 3,000 epochs would be run.
        return self.max_iter if self.early_stopping else min(self.max_iter, 200)

    def _params(self):
        names = {"logistic": "sigmoid", "identity": "identity"}
        optimizer = {}
        if self.solver == "sgd":
            optimizer = {"optimizer__momentum": self.momentum}
        elif self.solver == "adam":
            optimizer = {"optimizer__betas": (self.beta_1, self.beta_2)}
        return {
            "module": MLP,
            "module__hidden_layer_sizes": self.hidden_layer_sizes,
            "module__activation": names.get(self.activation, self.activation),
            "optimizer": SOLVERS[self.solver],
            "weight_decay": 0.0 if self.solver == "lbfgs" else self.alpha,
            "batch_size": -1 if self.solver == "lbfgs" else self.batch_size,
            "lr": 1.0 if self.solver == "lbfgs" else self.learning_rate_init,
            "max_epochs": self._n_epochs(),
            "iterator_train__shuffle": self.shuffle,
            "lower_bound": None,
            "lr_schedule": None,
            "repair": None,
            **{
                name: getattr(self, name)
                for name in (
                    "random_state",
                    "tol",
                    "warm_start",
                    "early_stopping",
                    "validation_fraction",
                    "n_iter_no_change",
                )
            },
            "verbose": int(self.verbose),
            **optimizer,
        }

    def _call(self, method, *args, **kwargs):
        # The object stays the same, as warm starts and partial fits need it.
        params = self._params()
        if "_net" in vars(self):
            self._net.set_params(**params)
        else:
            self._net = PositiveOutputRegressor(**params)
        getattr(self._net, method)(*args, **kwargs)
        return self

    def fit(self, X, y, sample_weight=None):
        return self._call("fit", X, y, sample_weight)

    def partial_fit(self, X, y, sample_weight=None):
        return self._call("partial_fit", X, y, sample_weight)

    def predict(self, X):
        if "_net" not in vars(self):
            raise NotFittedError
        return self._net.predict(X)

    def __getattr__(self, name):
        if name.startswith("_") or "_net" not in vars(self):
            raise AttributeError(name)
        return getattr(self._net, name)

    @property
    def coefs_(self):
        return [layer.weight.detach().numpy().T for layer in self._layers()]

    @property
    def intercepts_(self):
        return [layer.bias.detach().numpy() for layer in self._layers()]

    def _layers(self):
        return [m for m in self._net.module_.modules() if isinstance(m, nn.Linear)]

    @property
    def loss_(self):
        return self._net.loss_curve_[-1]

    @property
    def best_loss_(self):
        return None if self.early_stopping else min(self._net.loss_curve_)

    @property
    def validation_scores_(self):
        """Losses with the sign of a score, of all epochs so far."""
        if not self.early_stopping:
            return None
        return [-float(loss) for loss in self._net.history_[:, "valid_loss"]]

    @property
    def best_validation_score_(self):
        return max(self.validation_scores_) if self.early_stopping else None


class LikeNet:
    """Named as ``NeuralNetRegressor``: unbounded, and with targets as they are.

    The modules of skorch's tests do not end in a linear layer: a small `MLP` stands for
    those that learn, and the one that returns its input gets a head that does the same.
    """

    defaults = {  # noqa: RUF012
        "criterion": nn.MSELoss,
        "optimizer": torch.optim.SGD,
        "lr": 0.01,
        "max_epochs": 10,
        "batch_size": 128,
        "callbacks": None,
        "verbose": 1,
        "dtype": "float32",
    }

    def __init__(self, module=MLP, train_split=VALID_SPLIT, **params):
        self.train_split = train_split
        self.users_callbacks = params.get("callbacks") or []
        own = {k: v for k, v in params.items() if not k.startswith("module__")}
        # A net for a class each: here it fits their numbers.
        own.pop("criterion", None)
        self.model = PositiveOutputRegressor(
            **{**self.defaults, **own, **_module(module)},
            lower_bound=None,
            scale_y=False,
            lr_schedule=None,
            weight_decay=0.0,
            random_state=0,
        )

    def fit(self, X, y, **fit_params):
        return self._call("fit", X, y, **fit_params)

    def partial_fit(self, X, y, **fit_params):
        return self._call("partial_fit", X, y, **fit_params)

    def _call(self, method, X, y):
        validation = {}
        y = np.asarray(y, dtype=np.float32)
        if self.train_split is not None and method == "fit":
            train, valid = self.train_split(Dataset(X, y), y)
            rows = [_rows_of(part) for part in (train, valid)]
            (X, y), (X_val, y_val) = rows
            validation = {"X_val": X_val, "y_val": y_val}
        y = y.ravel() if y.ndim == 2 and y.shape[1] == 1 else y
        # A test that replaces a method of its net means that of the net inside.
        score = vars(self).get("score", ConstrainedNet.score)
        for name in {"max_epochs", "lr"} & set(vars(self)):
            self.model.set_params(**{name: vars(self).pop(name)})
        with patch.object(ConstrainedNet, "score", score):
            getattr(self.model, method)(X, y, **validation)
        self._show_state()
        return self

    def _show_state(self):
        """Show what callbacks have seen: skorch works on the user's own objects."""
        fitted = [callback for _, callback in self.model.callbacks_]
        for given in self.users_callbacks:
            own = given[1] if isinstance(given, tuple) else given
            for callback in fitted:
                if type(callback) is type(own):
                    vars(own).update(vars(callback))

    def set_params(self, **params):
        self.model.set_params(**params)
        return self

    def __getattr__(self, name):
        model = vars(self).get("model")
        if model is None:
            raise AttributeError(name)
        if name == "history":
            return model.history_
        return getattr(model if hasattr(model, name) else model.net_, name)


def _rows_of(part):
    X, y = zip(*(part[k] for k in range(len(part))), strict=True)
    return np.stack(X), np.stack(y).ravel()


def _module(module):
    if getattr(module, "__name__", "") != "MyModule":
        return {"module": MLP, "module__hidden_layer_sizes": 10}
    head = nn.Linear(1, 1)
    nn.init.ones_(head.weight)
    nn.init.zeros_(head.bias)
    return {"module": nn.Sequential(module(), head.requires_grad_(False))}
