"""What stored records say: statistics, comparisons, verdicts on the paper's claims."""
