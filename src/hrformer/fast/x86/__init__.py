"""Compiled C++ kernels for x86 processors: sources, how they are built, called and recorded."""
