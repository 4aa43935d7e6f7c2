"""Pages as people see them: a real service, and a real browser."""
