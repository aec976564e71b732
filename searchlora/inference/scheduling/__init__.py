"""Who is computed when: requests of all callers wait in lines, and one thread at a time computes them in batches."""
