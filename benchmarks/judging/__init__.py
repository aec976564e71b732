"""Pairs of query and passage judged per second, in four ways."""
