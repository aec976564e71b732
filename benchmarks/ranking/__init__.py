"""Learning to rank in a fusion, by number of judged topics."""
