"""Results as tables, pictures and pages, beside published numbers."""
