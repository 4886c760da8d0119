"""Batches of rows: their order, their sizes, and who fetches them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from skorch.dataset import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sklpos.nets.batch_norm import norm_over_rows
from sklpos.nets.hints import shown
from sklpos.nets.items import ItemTensor
from sklpos.nets.placement import sent
from sklpos.training.fetching import check_fetching
from sklpos.training.randomness import (
    borrowed_generator,
    derive_seed,
    make_generator,
    order_of_rows,
)
from sklpos.training.rows import Batch, RowDataset
from sklpos.training.shared_rows import SharedRows

# Values of X that are copied at once: little memory, and they stay in the cache.
_VALUES_PER_GATHER = 2**18


class BatchLoader:
    """Whole batches of rows, shuffled anew each epoch without stored state.

    The order of an epoch is a function of (seed, epoch), so training that is
    interrupted and resumed sees the same batches as training without interruption.

    Parameters
    ----------
    dataset : RowDataset
    batch_size : int
    shuffle : bool, default=False
    drop_last : bool, default=False
        Leave out a last batch that is not full.
    seed : int, default=0
    first_epoch : int, default=0
        Number of the epoch of the first pass.
    device : str or torch.device, optional
        Device of the batches; by default they stay with the data set.
    smallest : int, default=1
        Rows that a batch needs. The rows of a smaller last batch join the one before.
    sampler : iterable of int, optional
        Row numbers of an epoch, such as a ``WeightedRandomSampler``. It draws by `seed`
        unless it has a generator of its own.
    batch_sampler : iterable of list of int, optional
        Row numbers of each batch. `batch_size` and `drop_last` are then not used.
    **fetching : object
        Parameters of torch's ``DataLoader`` that say how workers fetch the items of a
        data set, such as ``num_workers``. Rows that are in memory need no workers.

    Examples
    --------
    >>> import torch
    >>> rows = RowDataset(torch.zeros(5, 2), torch.ones(5, 1), torch.ones(5))
    >>> [len(batch.index) for batch in BatchLoader(rows, batch_size=2)]
    [2, 2, 1]
    >>> [len(batch.index) for batch in BatchLoader(rows, batch_size=2, smallest=2)]
    [2, 3]
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        first_epoch: int = 0,
        device: str | torch.device | None = None,
        smallest: int = 1,
        *,
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[list[int]] | None = None,
        **fetching: Any,
    ):
        self.dataset = dataset
        # torch does not split a tensor by integers of numpy.
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.epoch = first_epoch
        self.device = device
        self.smallest = smallest
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.fetching = fetching
        check_fetching(fetching)
        self._check_sampling()
        if drop_last and not len(self):
            raise ValueError(
                f"drop_last=True leaves no batch of {self._n_rows} rows; lower "
                f"batch_size={batch_size}."
            )

    def adapt_to(self, module: nn.Module, row: Tensor) -> None:
        """Make no batch of a single row where batch norm would need several.

        Parameters
        ----------
        module : nn.Module
            Left in eval mode.
        row : torch.Tensor of shape (1, ...)
            Any row, on the device of the module.

        Raises
        ------
        ValueError
            If every batch has one row.
        """
        layer = norm_over_rows(module, row)
        if layer is None or self.batch_sampler is not None:
            return
        if self._n_rows == 1:
            raise ValueError(
                f"{layer} in the module takes a variance over the rows of a batch, but "
                "there is 1 training row; pass at least 2, or use nn.LayerNorm."
            )
        if self.batch_size == 1:
            raise ValueError(
                f"batch_size=1 is too small for {layer} in the module, which takes a "
                "variance over the rows of a batch; use at least 2, or nn.LayerNorm."
            )
        self.smallest = 2

    @property
    def may_repeat(self) -> bool:
        """Whether a row may be in a batch several times."""
        return self.sampler is not None or self.batch_sampler is not None

    def __len__(self) -> int:
        if self.batch_sampler is not None:
            return len(self.batch_sampler)
        full, rest = divmod(self._n_rows, self.batch_size)
        return full + bool(rest and not self.drop_last and not self._n_joined)

    def __iter__(self) -> Iterator[Batch]:
        numbers = self._numbers()
        self.epoch += 1
        if isinstance(numbers, Tensor):
            if self._at_once > 1:
                yield from self._gathered(numbers)
                return
            numbers = self._cut(numbers)
        for batch in self._fetched(numbers):
            yield batch.to(self.device)

    @property
    def _at_once(self) -> int:
        """Number of batches to gather at once, as a call costs as much as many rows."""
        # Another data set may do something else with the rows of a batch.
        known = type(self.dataset) in (RowDataset, SharedRows)
        if not (known and self.dataset.in_memory):
            return 1
        width = max(self.dataset.X[:1].numel(), 1)
        return max(_VALUES_PER_GATHER // (width * self.batch_size), 1)

    def _gathered(self, numbers: Tensor) -> Iterator[Batch]:
        """Batches of rows in memory."""
        # Once per epoch, rather than once per batch.
        numbers = sent(numbers, self.dataset.index_device)
        whole, last = self._without_joined(numbers)
        # An empty tensor would be split into one empty part.
        parts = whole.split(self.batch_size * self._at_once) if len(whole) else ()
        for index in parts:
            rows, sizes = self.dataset.gather(index.long(), self.batch_size)
            yield from rows.to(self.device).split(sizes)
        if len(last):
            yield self.dataset[last.long()].to(self.device)

    def _fetched(self, numbers: Iterable[Tensor]) -> Iterable[Batch]:
        """Batches that are fetched one by one, by workers if that is asked for."""
        X = getattr(self.dataset, "X", None)
        fetching = (
            {**X.rows.fetching, **self.fetching} if isinstance(X, ItemTensor) else {}
        )
        if not fetching.get("num_workers", 0):
            return (self.dataset[index] for index in numbers)
        # torch would warn that it has nothing to pin for.
        pinned = fetching.get("pin_memory", False) and torch.cuda.is_available()
        return DataLoader(
            self.dataset,
            # Without automatic batching, each number of a row may be a whole list.
            batch_size=None,
            sampler=list(numbers),
            # Seeds the workers; without it, torch would draw from its global generator.
            generator=make_generator(self.seed, 6, self.epoch),
            **{**fetching, "pin_memory": pinned},
        )

    def _numbers(self) -> Tensor | list[Tensor]:
        """Row numbers of an epoch, in order, or those of each of its batches."""
        n_rows = len(self.dataset)
        if self.may_repeat:
            return self._sampled()
        order = order_of_rows(n_rows, self.seed if self.shuffle else None, self.epoch)
        return order[: len(self) * self.batch_size] if self.drop_last else order

    def _sampled(self) -> Tensor | list[Tensor]:
        source = self.sampler if self.batch_sampler is None else self.batch_sampler
        # Samplers of torch for several processes shuffle by the epoch they are told.
        if hasattr(source, "set_epoch"):
            source.set_epoch(self.epoch)
        # One without a generator draws from torch's global one.
        with borrowed_generator(derive_seed(self.seed, 5, self.epoch)):
            drawn = list(source)
        if self.batch_sampler is not None:
            return [self._checked(numbers, "batch_sampler") for numbers in drawn]
        drawn = self._checked(drawn, "sampler")
        return drawn[: len(self) * self.batch_size] if self.drop_last else drawn

    def _checked(self, numbers: Iterable[int], name: str) -> Tensor:
        index = torch.as_tensor(numbers, dtype=torch.int64)
        n_rows = len(self.dataset)
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < n_rows:
            raise ValueError(
                f"{name} draws row numbers from {int(index.min())} up to "
                f"{int(index.max())}, but there are {n_rows} training rows; rows of "
                "weight 0, and those that are held out, are not among them."
            )
        return index

    @property
    def _n_rows(self) -> int:
        """Rows of an epoch."""
        return len(self.dataset) if self.sampler is None else len(self.sampler)

    @property
    def _n_joined(self) -> int:
        """Rows of a last batch that takes in what is left over; 0 if there is none."""
        rest = self._n_rows % self.batch_size
        joins = 0 < rest < self.smallest and rest < self._n_rows
        return self.batch_size + rest if joins and not self.drop_last else 0

    def _without_joined(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        end = len(numbers) - self._n_joined
        return numbers[:end], numbers[end:]

    def _cut(self, numbers: Tensor) -> list[Tensor]:
        whole, last = self._without_joined(numbers)
        batches = list(whole.split(self.batch_size)) if len(whole) else []
        batches = [*batches, last] if len(last) else batches
        return [numbers.long() for numbers in batches]

    def _check_sampling(self) -> None:
        if self.sampler is not None and self.batch_sampler is not None:
            raise ValueError("pass sampler or batch_sampler, not both.")
        name = "sampler" if self.batch_sampler is None else "batch_sampler"
        source = getattr(self, name)
        if source is None:
            return
        if self.shuffle:
            raise ValueError(f"{name} decides the order; leave out shuffle=True.")
        sized = isinstance(source, Iterable) and hasattr(source, "__len__")
        if not sized or not len(source):
            raise ValueError(
                f"{name}={shown(source)} must be iterable and have a length of at "
                "least 1, as the samplers of torch.utils.data do."
            )
