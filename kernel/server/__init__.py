"""gunicorn: its worker class, its response class and the WSGI entry point. Nothing else knows its internals."""
