"""The usage guide's trainers."""
