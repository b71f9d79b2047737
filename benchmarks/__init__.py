"""Benchmarks of speed and memory, most with a reference implementation."""
