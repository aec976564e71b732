"""Studies of the statistics: intervals, judges, interleaving, promotion, speed."""
