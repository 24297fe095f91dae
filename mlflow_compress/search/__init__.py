"""Search: spaces, strategies, the study that drives them, the trial that measures."""
