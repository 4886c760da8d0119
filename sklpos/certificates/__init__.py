"""Certificates: what a module can do off its training rows, proved."""

from sklpos.certificates.activations import register_relaxation, unregister_relaxation
from sklpos.certificates.certificate import Certificate
from sklpos.certificates.domains import All, Ball, Box, Domain, Hull
from sklpos.certificates.verify import certify_module

__all__ = [
    "All",
    "Ball",
    "Box",
    "Certificate",
    "Domain",
    "Hull",
    "certify_module",
    "register_relaxation",
    "unregister_relaxation",
]
