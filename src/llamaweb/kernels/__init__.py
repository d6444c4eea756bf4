"""Kernels: which WGSL template computes an operation, with which constants, for which device."""
