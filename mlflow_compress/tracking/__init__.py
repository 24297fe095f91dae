"""MLflow as a store: clients, runs, models, sources and pages of them; no policy."""
