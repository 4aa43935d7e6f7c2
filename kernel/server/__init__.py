"""gunicorn: its worker class, its response class, the WSGI entry point. Nothing else knows its internals."""
