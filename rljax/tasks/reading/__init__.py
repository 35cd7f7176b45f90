"""Read files of many formats into records: one layer for prompts, documents and preferences."""
