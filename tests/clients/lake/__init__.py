"""Delta tables between the server, the deltalake package and DuckDB: one file for each direction."""
