"""Seventy-seven labels scored whole: recomputed one by one, through one tree, and with hopeless ones left out."""
