"""Questions about many requests, answered from the coarsest rollups that know, and how exact the answers are."""
