"""ext3 revision 1 with its journal, over sectors that the library moves itself."""
