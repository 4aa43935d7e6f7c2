"""Report the requests of WSGI and ASGI applications to Tiercel, without delaying or breaking the application."""

from tiercel_client.asgi import TiercelASGI
from tiercel_client.reporter import Accepted, Counters, Reporter
from tiercel_client.settings import Settings
from tiercel_client.wsgi import Tiercel

__all__ = ["Accepted", "Counters", "Reporter", "Settings", "Tiercel", "TiercelASGI"]
