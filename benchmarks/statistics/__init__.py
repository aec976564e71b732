"""Studies of the statistics: intervals, judges, prediction-powered inference, system order, promotion, speed."""
