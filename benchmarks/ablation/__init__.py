"""What `benchmarks/ablate.py` is made of: specs, data of their own, one run, statistics, tables."""
