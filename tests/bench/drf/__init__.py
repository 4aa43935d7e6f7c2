"""A reference to measure against: request logs taken in by plain Django REST Framework."""
