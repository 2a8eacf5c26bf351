"""Looking at a machine from outside: tables, timelines, explanations.  The kernel does not know of any of it."""
