"""Sources of relevance judgments: provenance cards, judge lineage, pooling, human ratings and clicks."""
