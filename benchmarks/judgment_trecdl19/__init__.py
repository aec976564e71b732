"""A judge trained on TREC DL 2020, tested on the whole pool of TREC DL 2019; see `__main__`."""
