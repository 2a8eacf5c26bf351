"""An exokernel on an emulated x86-64 machine: the kernel protects, library operating systems manage."""
