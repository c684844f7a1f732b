"""Tables: what measures methods, or reads finished runs, and writes their scores down."""
