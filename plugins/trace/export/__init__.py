"""From rows of Notion to published datasets: proven complete, or refused with a reason."""
