"""What people look at: facts of a key, pictures, pages, tables, differences, exports."""
