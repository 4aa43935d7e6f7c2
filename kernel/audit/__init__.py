"""The audit log: who changed what, from where. This file is its public face.

``services.audit.record`` writes an entry in the transaction of a change; the kernel writes one for every other request
that changes something. ``AuditChains`` lists, exports and verifies them.
"""

from kernel.audit.chain import (
    AuditChains,
    AuditFilter,
    ChainReport,
    ExportFormat,
    Finding,
    csv_header,
    encode_entries,
)
from kernel.audit.entries import AuditEntry, compare
from kernel.audit.log import Audit

__all__ = [
    "Audit",
    "AuditChains",
    "AuditEntry",
    "AuditFilter",
    "ChainReport",
    "ExportFormat",
    "Finding",
    "compare",
    "csv_header",
    "encode_entries",
]
