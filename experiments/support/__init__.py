"""What the commands share: configurations, run folders, command lines, figures, files."""
