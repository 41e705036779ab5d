"""Jobs: admitted work, its permits, its turn, its way to a worker."""
