"""Read the configured sources from Notion and turn their rows into items of datasets: completely, or not at all.

================  =====================================================================================
``export``        read all sources, resolve their relations; the result is published by ``trace.jobs``
``reader``        read one source, of one or more data sources: every row, or what has changed
``completeness``  the second count that proves that no row is missing; the report of an export
``mapping``       which column becomes which field, and how its values are converted
``relations``     replace ids of pages by keys of items; reject relations without a target
================  =====================================================================================
"""
