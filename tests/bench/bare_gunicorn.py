"""The gunicorn settings of the service, for the baselines."""

import runpy

from tests.processes import ROOT

_ours = runpy.run_path(str(ROOT / "config" / "gunicorn.conf.py"))
# Everything but the application, the hooks that start and stop it, and its log.
_same = (
    *("bind", "worker_class", "workers", "threads", "keepalive", "timeout", "graceful_timeout"),
    *("preload_app", "worker_tmp_dir", "control_socket_disable"),
)
globals().update({name: _ours[name] for name in _same})
