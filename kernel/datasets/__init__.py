"""Datasets: versioned snapshots of what plugins publish, each application's view of them, and how they are served."""
