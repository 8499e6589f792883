"""The console: pages for operators. Nothing of this package is imported unless `[console] listen` is set."""
