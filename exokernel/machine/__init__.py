"""The hardware: CPU, physical memory, page tables, disk, console and clock.  No policy and no protection."""
