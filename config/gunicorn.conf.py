"""gunicorn, as ``tiercel serve`` runs it. Values come from config/tiercel.toml and the environment (``[server]``)."""

from kernel.config import load
from kernel.logging import stdlib_config
from kernel.server.wsgi import on_exit, post_worker_init, pre_fork, worker_exit  # noqa: F401 - gunicorn calls them by name

_settings = load().settings

wsgi_app = "kernel.server.wsgi:create()"
bind = _settings.server.bind

# Threads wait for the database side by side; connections that are idle or half way through a head hold none of them.
worker_class = "kernel.server.worker.HeadFirstWorker"
workers = _settings.server.workers
threads = _settings.server.threads
keepalive = _settings.server.keepalive_s

# The service boots once, in the master; a wrong setting stops it there, with one message.
preload_app = True

# A worker that does not answer the master for this long is replaced.
timeout = _settings.server.timeout_s
# After SIGTERM, requests in flight have this long to finish.
graceful_timeout = _settings.server.graceful_timeout_s

# Nothing is written outside TIERCEL_HOME.
worker_tmp_dir = str(_settings.home)
control_socket_disable = True

# The request log is Tiercel's own; gunicorn's lines take its shape.
accesslog = None
logconfig_dict = stdlib_config(_settings.log)
