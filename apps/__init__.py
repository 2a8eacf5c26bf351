"""The programs: C sources, built by `exokernel.build`, and what they need at run time in `support/`."""
