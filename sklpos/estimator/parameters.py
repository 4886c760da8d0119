"""Parameters: their valid values, and skorch's double-underscore ones."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, Self

from sklearn.utils._param_validation import Interval, Options, StrOptions

PREFIXES = (
    "module",
    "optimizer",
    "criterion",
    "callbacks",
    "iterator_train",
    "iterator_valid",
    "dataset",
    "compile",
)

#: scikit-learn's language of valid values.
CONSTRAINTS = {
    "alpha": [Interval(Real, 0, None, closed="left")],
    "repair": [StrOptions({"head"}), None],
    "balance": ["boolean"],
    "criterion": [callable],
    "optimizer": [callable],
    "lr": [Interval(Real, 0, None, closed="neither")],
    "weight_decay": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
    "max_epochs": [Interval(Integral, 0, None, closed="left")],
    "batch_size": [
        Interval(Integral, 1, None, closed="left"),
        Options(Integral, {-1}),
    ],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    "tol": [Interval(Real, 0, None, closed="left")],
    "callbacks": [list, tuple, None],
    "scale_y": ["boolean"],
    "on_negative_y": [StrOptions({"warn", "raise", "ignore"})],
    "dtype": [StrOptions({"auto", "float32", "float64"})],
    "warm_start": ["boolean"],
    "verbose": ["verbose"],
    "random_state": ["random_state"],
}


def is_net_param(name: str) -> bool:
    """Whether a name belongs to the net, such as ``optimizer__weight_decay``."""
    return name.startswith(tuple(f"{prefix}__" for prefix in PREFIXES))


class NetParamsMixin:
    """``get_params`` and ``set_params`` over ``**net_params``, kept in one dict.

    The dict is ``_net_params``; it is replaced, never changed in place.
    """

    # The var-keyword's own name: scikit-learn's checks pass it like a parameter.
    _open_name = "net_params"

    def _take_net_params(self, net_params: dict) -> None:
        unknown = [
            name
            for name in net_params
            if not is_net_param(name) and name not in (self._open_name, "compile")
        ]
        if unknown:
            raise TypeError(
                f"{type(self).__name__} has no parameter {unknown[0]!r}; parameters of "
                "the net start with one of "
                f"{', '.join(f'{prefix}__' for prefix in PREFIXES)}."
            )
        self._net_params = dict(net_params)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters of the estimator and those of the net.

        Parameters
        ----------
        deep : bool, default=True
            Include the parameters of a strategy instance.

        Returns
        -------
        dict
        """
        return {**super().get_params(deep=deep), **self._net_params}

    def set_params(self, **params: Any) -> Self:
        """Set parameters of the estimator and of the net.

        Parameters
        ----------
        **params : object
            Names as in `get_params`, and any name with a prefix of the net.

        Returns
        -------
        self
        """
        mine = {
            name: value
            for name, value in params.items()
            if is_net_param(name) or name in (self._open_name, "compile")
        }
        rest = {name: value for name, value in params.items() if name not in mine}
        super().set_params(**rest)
        self._net_params = {**self._net_params, **mine}
        return self

    def _check_net_params(self) -> None:
        if self._open_name in self._net_params:
            raise TypeError(f"{type(self).__name__} has no parameter 'net_params'.")

    def _net_params_for(self, prefix: str) -> dict:
        start = f"{prefix}__"
        return {
            name.removeprefix(start): value
            for name, value in self._net_params.items()
            if name.startswith(start)
        }
