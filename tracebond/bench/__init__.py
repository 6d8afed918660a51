"""Benchmarks: each part measured in one run beside its raw ceiling and beside the naive way."""
