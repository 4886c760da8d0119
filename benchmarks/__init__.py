"""How fast sklpos trains, predicts and repairs, beside others: ``make bench``."""
