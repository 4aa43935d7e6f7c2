"""What Notion sends when something changes: each event brings the next refresh forward."""
