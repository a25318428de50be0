"""Triton kernels for CUDA devices, the operators over them, and CUDA graphs."""
