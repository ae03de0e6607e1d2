"""What a page shows of records: figures, tables, numbers for the prose."""
