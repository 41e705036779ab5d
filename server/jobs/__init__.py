"""Jobs: admitted work, its permit, its turn, its way to the worker and back. No HTTP."""
