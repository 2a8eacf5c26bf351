"""Files for programs: one environment serves a mounted file system, and the others call it."""
