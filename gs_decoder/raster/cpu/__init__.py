"""Rasteriser kernels for the CPU."""
