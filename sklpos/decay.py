"""Weight decay by the noise of the data, under its public address."""

from sklpos.training.decay import NoiseScaledDecay, neighbour_loss

__all__ = ["NoiseScaledDecay", "neighbour_loss"]
