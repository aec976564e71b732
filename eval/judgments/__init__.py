"""Where judgments come from: their cards, the lineage of judges, pools, mixtures."""
