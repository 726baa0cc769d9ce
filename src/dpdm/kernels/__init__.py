"""Kernels for GPUs, in Triton: what torch's own do slowly or only for a whole batch at once.

They know tensors and nothing of the rest of the program. ``usable`` says which calls one takes;
Triton is imported with the first of these.
"""
