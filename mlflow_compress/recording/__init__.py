"""Our records in MLflow: searches, trials and jobs, written down and read back."""
