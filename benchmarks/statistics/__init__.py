"""Studies of the statistics: intervals, judges, system order, promotion, speed."""
