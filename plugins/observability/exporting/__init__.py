"""Every event that meets some filters, as one file, however many there are."""
