"""Imported once by the process from which others are forked."""

from killed import warm_up

warm_up()
