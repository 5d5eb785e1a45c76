"""Pictures: data in, matplotlib Figure out. Nothing here shows or saves."""
