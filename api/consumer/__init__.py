"""The page behind a code on a package: what is shown, and how it is decided."""
