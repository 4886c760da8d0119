"""``python -m benchmarks.device_counts``: kernels and reads of a training step.

Prints the table of ``docs/how-to/accelerator.md``. It needs no accelerator: the
operations are counted on the device that the tests imitate.
"""

import sys
import warnings
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"


def main() -> None:
    """Print the table."""
    sys.path.insert(0, str(TESTS))
    from counted_fits import table
    from fake_device import fake_device

    with warnings.catch_warnings(), fake_device() as device:
        # Fits of a few epochs end early and far from their bounds.
        warnings.simplefilter("ignore")
        print(table(device))


if __name__ == "__main__":
    main()
