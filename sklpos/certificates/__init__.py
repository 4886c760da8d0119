"""Certificates: what a module can do off its training rows, proved."""

from sklpos.certificates.activations import register_relaxation, unregister_relaxation
from sklpos.certificates.certificate import Certificate
from sklpos.certificates.domains import All, Ball, Box, Domain, Hull
from sklpos.certificates.estimator import certify
from sklpos.certificates.risk import RiskCertificate, certify_risk, smallest_shift
from sklpos.certificates.rows import certified_radius, output_bounds
from sklpos.certificates.verify import certify_module

__all__ = [
    "All",
    "Ball",
    "Box",
    "Certificate",
    "Domain",
    "Hull",
    "RiskCertificate",
    "certified_radius",
    "certify",
    "certify_module",
    "certify_risk",
    "output_bounds",
    "register_relaxation",
    "smallest_shift",
    "unregister_relaxation",
]
