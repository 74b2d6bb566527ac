"""Keys on disk: what one holds, written whole or not at all, fresh or not, built in order."""
