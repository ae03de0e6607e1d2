"""What a record was made from, and what of that has changed since."""
