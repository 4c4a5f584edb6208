"""What a run leaves: the result, its events, files, tables and figures."""
