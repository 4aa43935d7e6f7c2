"""Questions about many requests: KPIs, rows by hour, day and endpoint, and time series.

A question goes this way: ``scope -> plan -> query -> result``. Its parameters become a ``Scope`` (``scope.py``): which
time, which series. A ``QuerySession`` (``session.py``) opens a REPEATABLE READ transaction, and looks up the series and
the state of the rollups. A ``ReadPlan`` (``plan.py``) says which parts of the window are read from daily rollups,
hourly rollups and events. ``sql_builder.py`` composes one query over these parts, and ``service.py`` makes an answer of
the rows.
"""
