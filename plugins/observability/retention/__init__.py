"""How long events and rollups are kept, and how they go."""
