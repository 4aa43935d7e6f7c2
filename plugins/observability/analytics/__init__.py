"""Analytics of request logs: KPIs, rows by hour, day and endpoint, and time series.

A request takes the steps ``scope -> plan -> query -> result``. Its parameters become a ``Scope`` (``scope.py``): a span
of time, and series. A ``QuerySession`` (``session.py``) opens a REPEATABLE READ transaction, and looks up series and
the state of the rollups. A ``ReadPlan`` (``plan.py``) decides which parts of the window are read from daily rollups,
hourly rollups and events. ``sql_builder.py`` composes one query over these parts, and ``service.py`` makes a response
of the rows. How rows are divided into groups, and which of them are shown, is in ``grouping.py``.

Who asks in SQL has the views of ``migrations/0007_documented_views.sql``.
"""
