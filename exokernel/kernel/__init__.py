"""The protected kernel: it multiplexes frames, the CPU and sectors securely and leaves every abstraction to libraries."""
