"""Training, evaluation, experiments, judging and promotion: workflows that combine the other packages."""
