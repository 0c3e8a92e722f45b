"""The chapters of the book, one for each family of layers, and what they draw with."""
