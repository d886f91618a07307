"""What a file is: kind, base architecture, components, and where it belongs."""
