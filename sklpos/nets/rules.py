"""Rules for parameters that are numbers or names, and the sentence that refuses one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from numbers import Integral, Rational, Real
from typing import Protocol

from sklpos.nets.hints import did_you_mean, shown


class Rule(Protocol):
    """What a value must be; its ``str`` ends the sentence "... must be"."""

    def allows(self, value: object) -> bool:
        """Whether a value obeys the rule."""
        ...


@dataclass(frozen=True)
class Number:
    """A number in a range; True and False are none.

    Attributes
    ----------
    least : float, default=0.0
        Smallest value.
    most : float, default=inf
        Largest value; infinity itself is a value only if `infinite`.
    above : bool, default=False
        Whether `least` itself is excluded.
    infinite : bool, default=False

    Examples
    --------
    >>> Number(most=1.0).allows(0.5), Number().allows(True), str(Number(above=True))
    (True, False, 'a finite number, above 0')
    """

    least: float = 0.0
    most: float = inf
    above: bool = False
    infinite: bool = False

    def allows(self, value: object) -> bool:
        """Whether a value is such a number."""
        number = as_float(value)
        if number is None:
            return False
        enough = number > self.least if self.above else number >= self.least
        return enough and number <= self.most and (self.infinite or isfinite(number))

    def __str__(self) -> str:
        kind = "a number" if self.infinite else "a finite number"
        limits = f"{'above' if self.above else 'at least'} {self.least:g}"
        if self.most < inf:
            limits += f" and at most {self.most:g}"
        return f"{kind}, {limits}"


def as_float(value: object) -> float | None:
    """Convert a real number; None for anything else.

    Parameters
    ----------
    value : object
        To Python, True and 10**400 are numbers; here, they are none. Nor is a fraction,
        by which torch cannot multiply.

    Returns
    -------
    float or None
    """
    fraction = isinstance(value, Rational) and not isinstance(value, Integral)
    if isinstance(value, bool) or fraction or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


@dataclass(frozen=True)
class Count:
    """A whole number; True and False are none.

    Attributes
    ----------
    least : int, default=1

    Examples
    --------
    >>> Count().allows(3), Count().allows(3.0), str(Count())
    (True, False, 'a positive integer')
    """

    least: int = 1

    def allows(self, value: object) -> bool:
        """Whether a value is such a number, of at most 63 bits."""
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return whole and self.least <= value < 2**63

    def __str__(self) -> str:
        return "a positive integer" if self.least else "an integer, at least 0"


@dataclass(frozen=True)
class OneOf:
    """One of some names.

    Attributes
    ----------
    names : tuple of str

    Examples
    --------
    >>> str(OneOf(("box", "hull")))
    "one of 'box', 'hull'"
    """

    names: tuple[str, ...]

    def allows(self, value: object) -> bool:
        """Whether a value is one of the names."""
        return isinstance(value, str) and value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.names))}"


def check_rules(
    values: Mapping[str, object], rules: Mapping[str, Rule], owner: str = ""
) -> None:
    """Refuse values that do not obey their rules.

    Parameters
    ----------
    values : mapping of str to object
        Those without a rule are not checked.
    rules : mapping of str to Rule
    owner : str, default=""
        What has these parameters, for the message.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> check_rules({"growth": -1}, {"growth": Number()}, "Lagrangian")
    Traceback (most recent call last):
    ValueError: growth=-1 of Lagrangian must be a finite number, at least 0.
    """
    for name, rule in rules.items():
        if name in values and not rule.allows(values[name]):
            value = values[name]
            known = rule.names if isinstance(rule, OneOf) else ()
            raise ValueError(
                f"{name}={shown(value)}{f' of {owner}' if owner else ''} must be "
                f"{rule}{did_you_mean(value, known) or '.'}"
            )
