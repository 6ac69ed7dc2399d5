"""What developers run; nothing that users import."""
