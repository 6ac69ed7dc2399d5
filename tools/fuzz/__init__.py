"""Fuzzers: every decoder, a live node, and the two backends against each other."""
