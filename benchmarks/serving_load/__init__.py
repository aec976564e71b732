"""Many clients at once over several adapters of `searchlora serve`: how long they wait, and whose answers they get."""
