"""Contestants of the benchmark: one small file each, run as processes of their own."""
