"""What a compiler needs told: chunks, layouts, algorithms. Each function is named by what it
computes, and equals a plain twin that the tests hold it against; no derivation is in here."""
