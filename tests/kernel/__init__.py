"""The kernel's rules, as claims."""
