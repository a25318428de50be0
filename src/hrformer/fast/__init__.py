"""The fast inference path: folded networks, fused blocks, CUDA graphs and CPU runtimes behind one call."""
