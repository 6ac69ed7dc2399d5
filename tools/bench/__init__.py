"""Benchmarks: contestants as separate processes over loopback, interleaved, medians of rounds."""
