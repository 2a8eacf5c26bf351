"""`python -m exokernel` is `exo`."""

from exokernel.cli import main

main()
