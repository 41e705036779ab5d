"""Workers: one process per device, spoken to over an inherited socket."""
