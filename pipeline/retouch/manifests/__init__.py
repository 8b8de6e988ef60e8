"""The input table: read, checked, fingerprinted, decoded, imported from other formats."""
