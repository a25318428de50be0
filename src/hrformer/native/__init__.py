"""Kernels for x86 processors in C++ (``source/``): how they are compiled, found and called."""
