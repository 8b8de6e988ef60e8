"""Where a plan is carried out: in this process, or by Ray Data. Each yields results rows as they are committed."""
