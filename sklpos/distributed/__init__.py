"""One fit by several processes, each with its own rows."""

from sklpos.distributed.fit import fit_data_parallel

__all__ = ["fit_data_parallel"]
