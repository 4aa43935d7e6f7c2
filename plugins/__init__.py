"""Plugins that ship with Tiercel."""
