"""Certificates: proved bounds of a module's outputs beyond its training rows."""

from sklpos.certificates.bounds.activations import (
    register_relaxation,
    unregister_relaxation,
)
from sklpos.certificates.certificate import Certificate
from sklpos.certificates.certify import certify, certify_module
from sklpos.certificates.domains.shapes import All, Ball, Box, Domain, Hull
from sklpos.certificates.holdout import certify_risk
from sklpos.certificates.risk import RiskCertificate, bound_risk, smallest_shift
from sklpos.certificates.rows import certified_radius, output_bounds

__all__ = [
    "All",
    "Ball",
    "Box",
    "Certificate",
    "Domain",
    "Hull",
    "RiskCertificate",
    "bound_risk",
    "certified_radius",
    "certify",
    "certify_module",
    "certify_risk",
    "output_bounds",
    "register_relaxation",
    "smallest_shift",
    "unregister_relaxation",
]
