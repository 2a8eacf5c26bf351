"""Storage below any file system: a volume of raw sectors, and a cache of its blocks in frames the library owns."""
