"""All down-calls: importing this puts a function behind every row of the table."""

from exokernel.kernel import calls_context, calls_cpu, calls_disk, calls_environment, calls_memory
from exokernel.kernel.dispatch import complete

__all__ = ["calls_context", "calls_cpu", "calls_disk", "calls_environment", "calls_memory", "complete"]
