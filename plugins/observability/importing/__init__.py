"""Import log files: lines to events, safely any number of times."""
