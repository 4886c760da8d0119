"""The scikit-learn estimator, and what is asked of one that is fitted."""
