"""Pages under ``/compress`` of MLflow's server: fronts, targets, histories, and promotion."""
