"""gunicorn, as ``tiercel serve`` runs it. Values come from the settings of Tiercel, section ``[server]``."""

from kernel.config import load
from kernel.server.wsgi import (  # noqa: F401 - gunicorn calls the hooks by name
    logging_config,
    on_exit,
    on_starting,
    post_worker_init,
    pre_fork,
    worker_exit,
)

_settings = load().settings

wsgi_app = "kernel.server.wsgi:create()"
bind = [address.strip() for address in _settings.server.bind.split(",")]
# A socket in the file system is for this user and its group.
umask = 0o117

# Threads overlap waits for the database. A client that is waited for occupies none of them.
worker_class = "kernel.server.worker.TiercelWorker"
workers = _settings.server.workers
threads = _settings.server.threads
worker_connections = _settings.server.connections_max
keepalive = _settings.server.keepalive_s

# The service boots once, in the master, where a wrong setting stops it with one message.
preload_app = True

# A worker that sends no heartbeat to the master for this long is replaced.
timeout = _settings.server.timeout_s
# After SIGTERM, current requests have this long to finish.
graceful_timeout = _settings.server.graceful_timeout_s

# Nothing is written outside TIERCEL_HOME.
worker_tmp_dir = str(_settings.home)
control_socket_disable = True

# Tiercel writes the request log; gunicorn's lines get the same format.
accesslog = None
logconfig_dict = logging_config(_settings.log)
