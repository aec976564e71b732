"""HTML reports: comparisons of systems, each as one file that opens offline."""
