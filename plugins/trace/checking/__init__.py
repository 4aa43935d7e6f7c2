"""What ``tiercel trace check`` finds: whether configuration, token and Notion go together."""
