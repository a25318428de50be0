"""Triton kernels for CUDA devices, one file each with its launcher; plain references stand in ``hrformer.ops``."""
