"""How much is allowed: throttles of requests, and the daily limits of plans. This file is its public face."""

from kernel.limits.usage import DayUsage, Usage

__all__ = ["DayUsage", "Usage"]
