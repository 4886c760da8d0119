"""The scikit-learn estimator, and what is asked of one that is fitted."""

# Importing it registers fitted estimators, pipelines and searches as bounded models.
from sklpos.estimator.fitted import read_model

__all__ = ["read_model"]
