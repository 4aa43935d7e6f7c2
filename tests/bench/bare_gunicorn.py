"""The gunicorn settings of the service, for the bare route."""

from tests.bench.service import WORKERS

worker_class = "gthread"
workers = WORKERS
threads = 8
keepalive = 5
preload_app = True
control_socket_disable = True
