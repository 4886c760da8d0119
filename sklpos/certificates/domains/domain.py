"""Base class of the sets of inputs that a certificate can be about."""

from __future__ import annotations

from abc import ABC, abstractmethod

from sklpos.certificates.domains.regions import Region


class Domain(ABC):
    """A set of inputs, as the union of convex parts."""

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Number of features."""

    @abstractmethod
    def region(self) -> Region:
        """Convert the set to the parts that bound propagation takes.

        Returns
        -------
        Region
        """

    def check_features(self, n_features: int) -> None:
        """Refuse a module with another number of inputs.

        Parameters
        ----------
        n_features : int

        Raises
        ------
        ValueError
            If the numbers of features differ.
        """
        if self.n_features != n_features:
            raise ValueError(
                f"the domain has {self.n_features} features, but the module takes "
                f"{n_features}."
            )
