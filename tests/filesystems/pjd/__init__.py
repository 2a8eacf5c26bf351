"""The rules of POSIX for files, group by group, as a table of small scripts."""
