"""Reading from Notion, whole or not at all. Knows nothing of datasets."""
