"""Turn what runs produced into numbers with intervals, tables and reports."""
